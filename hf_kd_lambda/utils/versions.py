"""Versions of Python and of the packages that compute results."""

import platform
from importlib.metadata import version

PACKAGES = ("hf-kd-lambda", "torch", "transformers")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute results, by name."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
