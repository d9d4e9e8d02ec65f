"""Whose checkpoints lie in a folder, which of them is whole, and whether a run may go on from it."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.utils import CONFIG_NAME

RECORD_FILE = "run.json"


def last_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint that was written to its end; None where there is none.

    A process killed while it saves leaves a folder without a readable `trainer_state.json`, which is passed over.
    """
    for checkpoint in reversed(_checkpoints(folder)):
        try:
            TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        except (OSError, ValueError):
            continue
        return checkpoint
    return None


def claim_folder(setting: str, folder: Path, settings: Mapping[str, Any]) -> bool:
    """Check that a run with these settings may write into `folder` and go on from the checkpoints in it.

    Args:
        setting: name of the setting that gave the folder, for messages.
        folder: is made where it does not exist.
        settings: whatever decides what the run computes, as JSON values.

    Returns:
        Whether a run with the same settings was finished here.

    Raises:
        ValueError: the folder cannot be written to, or holds a model or checkpoints of a run with other settings.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{setting}={str(folder)!r} cannot be written ({error.strerror}): choose another.") from None
    if not _checkpoints(folder) and not (folder / CONFIG_NAME).exists():
        return False
    record = _read_record(folder)
    if record is None:
        raise ValueError(f"{setting}={str(folder)!r} holds a model of unknown origin: choose another {setting}.")
    now, earlier = json.loads(json.dumps(settings)), record["settings"]
    changed = sorted(name for name in earlier.keys() | now.keys() if earlier.get(name) != now.get(name))
    if changed:
        raise ValueError(
            f"{setting}={str(folder)!r} holds a run with another {', '.join(changed)}: choose another {setting}, "
            "or remove that run."
        )
    return record["finished"]


def record_run(folder: Path, settings: Mapping[str, Any], finished: bool) -> None:
    """Write down whose folder this is, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{RECORD_FILE}.tmp"
    temporary.write_text(json.dumps({"finished": finished, "settings": settings}, indent=2) + "\n")
    os.replace(temporary, folder / RECORD_FILE)


def is_unfinished(folder: Path) -> bool:
    """Whether a run was begun in this folder and not finished."""
    record = _read_record(folder)
    return record is not None and not record["finished"]


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.keys() == {"finished", "settings"} else None


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run."""
    for checkpoint in _checkpoints(folder):
        shutil.rmtree(checkpoint)


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))
