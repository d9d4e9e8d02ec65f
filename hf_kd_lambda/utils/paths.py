"""Expansion of `~/` in paths."""

import os


def expand_home(word: str) -> str:
    """A path, or `--setting=path`, with a leading `~/` replaced by the home folder; shells do not always expand it."""
    option, equals, value = word.partition("=")
    if word.startswith("--") and equals:
        return f"{option}={expand_home(value)}"
    return os.path.expanduser(word) if word.startswith("~/") else word
