"""How Sphinx builds these pages: `make docs`."""

from importlib.metadata import version as installed_version

from sphinx.application import Sphinx

project = "hf-kd-lambda"
author = project_copyright = "The hf-kd-lambda authors"
version = release = installed_version(project)

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # `make test-slow` runs the notebook; the page shows the outputs that are saved in it

default_role = "code"  # docstrings write `name`, as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True


def setup(app: Sphinx) -> None:
    """Adapt docstrings to reStructuredText."""
    app.connect("autodoc-process-docstring", _escape_bars)
    app.connect("autodoc-process-signature", _shorten_signature)


def _escape_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep |g| a norm: reStructuredText takes text between bars for a substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def _shorten_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Leave out the signature of a class with dozens of settings, which the reference lists in a table."""
    return ("(**settings)", None) if name.endswith(("Config", "Arguments")) else (signature, returns)
