"""The layout of the package: what each sub-package may import."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_kd_lambda

PACKAGE = Path(__file__).parents[1] / "hf_kd_lambda"
LEVELS = [
    {"utils"},
    {"losses", "gradients"},
    {"models", "data", "balancing"},
    {"teacher", "reports"},
    {"tasks"},
    {"trainer"},
    {"jobs"},
    {"studies", "cli"},
]
"""Lowest first: a sub-package imports only from levels below its own."""
FORBIDDEN = {("trainer", "tasks"), ("reports", "data"), ("reports", "models"), ("teacher", "balancing")}
"""Downward imports that the layout excludes too."""


def imported_modules(source: str) -> Iterator[str]:
    """Names of the package's modules that a source file imports, those under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part_of(module: str) -> str | None:
    """The sub-package or top-level module that a dotted name belongs to; None outside the package."""
    root, _, rest = module.partition(".")
    return rest.partition(".")[0] if root == PACKAGE.name and rest else None


def imports_by_part(package: Path) -> dict[str, set[str]]:
    """For each sub-package or top-level module, the others that it imports."""
    graph: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        first, *_ = path.relative_to(package).with_suffix("").parts
        if first == "__init__":
            continue
        found = {part_of(module) for module in imported_modules(path.read_text(encoding="utf-8"))}
        graph.setdefault(first, set()).update(part for part in found - {None, first} if part)
    return graph


def violations(graph: dict[str, set[str]]) -> list[str]:
    """Imports that do not point to a lower level, or that the layout excludes."""
    level = {part: index for index, parts in enumerate(LEVELS) for part in parts}
    return [
        f"{part} imports {other}"
        for part, others in sorted(graph.items())
        for other in sorted(others)
        if part not in level or other not in level or level[other] >= level[part] or (part, other) in FORBIDDEN
    ]


def test_imports_point_one_way():
    graph = imports_by_part(PACKAGE)
    for part, others in graph.items():
        print(f"{part}: {', '.join(sorted(others)) or '-'}")
    assert violations(graph) == []
    assert graph.keys() <= set().union(*LEVELS)


def test_modules_of_a_sub_package_form_no_cycle():
    graph: dict[str, set[str]] = {}
    paths = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    for name, path in modules.items():
        imported = set(imported_modules(path.read_text(encoding="utf-8")))
        graph[name] = {module for module in imported | {m.rpartition(".")[0] for m in imported} if module in modules}
        graph[name] -= {name}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_package_has_few_parts():
    folders = [path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    modules = [path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert len(folders) <= 12
    assert len(modules) <= 6
    assert len(LEVELS) <= 8


def test_each_sub_package_says_what_it_may_import():
    for part in set().union(*LEVELS) - {"cli"}:
        docstring = ast.get_docstring(ast.parse((PACKAGE / part / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert "May import" in docstring or "Imports no" in docstring, part


@pytest.mark.parametrize(
    ("part", "line", "expected"),
    [
        ("losses", "from hf_kd_lambda.trainer.config import DistillationConfig", "losses imports trainer"),
        ("gradients", "import hf_kd_lambda.losses.functional", "gradients imports losses"),
        ("trainer", "from hf_kd_lambda.tasks import TASKS", "trainer imports tasks"),
        ("data", "from hf_kd_lambda import cli", "data imports cli"),
        ("new", "import os", None),
    ],
)
def test_a_planted_violation_is_found(tmp_path, part, line, expected):
    folder = tmp_path / part
    folder.mkdir()
    (folder / "module.py").write_text(f"def late():\n    {line}\n")
    graph = imports_by_part(tmp_path)
    assert violations(graph) == ([] if expected is None else [expected])
    assert (graph.keys() <= set().union(*LEVELS)) == (expected is not None)


SHARED_NAMES = {"main", "DESCRIPTION", "logger"}
"""What each command and each module may define for itself."""


def public_names(path: Path) -> set[str]:
    """Functions, classes and constants that a module defines at its top level, without a leading underscore."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")} - SHARED_NAMES


def test_no_two_things_share_a_name():
    owners: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in public_names(path):
            owners.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in owners.items() if len(places) > 1} == {}


def test_tab_completion_shows_the_public_names():
    assert {*hf_kd_lambda.__all__, "__version__"} <= {*dir(hf_kd_lambda)}
