"""Paths as people write them."""

import os


def expand_home(word: str) -> str:
    """A path, or `--setting=path`, with the home folder for a leading `~/`, as shells do in some places only."""
    option, equals, value = word.partition("=")
    if word.startswith("--") and equals:
        return f"{option}={expand_home(value)}"
    return os.path.expanduser(word) if word.startswith("~/") else word
