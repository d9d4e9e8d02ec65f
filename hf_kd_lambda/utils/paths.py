"""Expansion of `~/` in paths, folders of models, and files that are never half written."""

import os
from pathlib import Path

from hf_kd_lambda.utils.names import closest_name


def expand_home(word: str) -> str:
    """A path, or `--setting=path`, with a leading `~/` replaced by the home folder; shells do not always expand it."""
    option, equals, value = word.partition("=")
    if word.startswith("--") and equals:
        return f"{option}={expand_home(value)}"
    return os.path.expanduser(word) if word.startswith("~/") else word


def write_at_once(path: Path, text: str) -> None:
    """Write or replace a text file in one step, so that an interruption leaves the old content or the new."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def check_path(setting: str, path: str | None) -> None:
    """Refuse what cannot be the name of a file or a folder.

    Args:
        setting: setting with the path, for the message.
        path: None is not looked at.

    Raises:
        ValueError: names the setting.
    """
    if path is not None and (not path or "\0" in path or path != path.encode(errors="replace").decode()):
        raise ValueError(f"{setting}={path!r} is empty or has a character that no path can have: choose another.")


def check_model_folder(setting: str, checkpoint: str) -> None:
    """Refuse a name that cannot be an id of the Hub, which is `name` or `namespace/name`, and is no folder either.

    Nor may it be close to the path of a folder here: the Hub would be asked for a misspelt path, and for long if it
    cannot be reached.

    Args:
        setting: setting with the model, for the message.
        checkpoint: its value.

    Raises:
        OSError: names both.
    """
    is_path = checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1
    if is_path and not Path(checkpoint).is_dir():
        raise OSError(f"{setting}={checkpoint!r}: there is no such folder.")
    parent, _, name = checkpoint.rstrip("/").partition("/")
    if name and Path(parent).is_dir() and not Path(checkpoint).is_dir():
        closest = closest_name(name, (folder.name for folder in Path(parent).iterdir() if folder.is_dir()))
        if closest is not None:
            raise OSError(
                f"{setting}={checkpoint!r}: there is no such folder. Did you mean {f'{parent}/{closest}'!r}? If you "
                f"mean a model of the Hub, run the command where there is no folder {parent}."
            )
