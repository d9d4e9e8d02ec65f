"""Parsing of settings that are mappings."""

import contextlib
import json
from typing import Any

import yaml


def as_mapping(value: Any, name: str, example: str) -> dict[str, Any] | None:
    """A setting that is a mapping or None; JSON or YAML on the command line.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError, yaml.YAMLError):
            value = _parsed(value)
    if not isinstance(value, dict | None):
        raise ValueError(f"{name}={value!r} must be a mapping, e.g. {example}.")
    return value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)  # in which 1e-3 is a number
    except ValueError:
        return yaml.safe_load(text) if text.lstrip().startswith("{") else text
