"""Parsing of settings that are mappings."""

import contextlib
import json
from typing import Any


def as_mapping(value: Any, name: str, example: str) -> dict[str, Any] | None:
    """A setting that is a mapping or None; JSON on the command line.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, dict | None):
        raise ValueError(f"{name}={value!r} must be a mapping, e.g. {example}.")
    return value
