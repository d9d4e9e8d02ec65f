"""The folder of a run: whose checkpoints lie in it, which are complete, and whether a run may resume from it."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.utils import CONFIG_NAME, logging

from hf_kd_lambda.jobs.identity import NOT_COMPARED, differences
from hf_kd_lambda.jobs.manifest import damage, has_manifest
from hf_kd_lambda.utils.paths import write_at_once

logger = logging.get_logger(__name__)

RECORD_FILE = "run.json"


def last_checkpoint(folder: Path, with_best: bool = False) -> Path | None:
    """The latest checkpoint that is as it was written; None if there is none.

    The others are left out, with a warning. Checkpoints without a manifest, written by an earlier version or by a
    process that was killed while it saved, are used only if `trainer_state.json` is readable and no checkpoint with a
    manifest is complete.

    Args:
        folder: the run folder.
        with_best: also require that the best checkpoint until then is as it was written, because training ends with
            its weights.
    """
    latest_first = _checkpoints(folder)[::-1]
    for checkpoint in sorted(latest_first, key=lambda path: not has_manifest(path)):  # which keeps that order
        reason = _damage(checkpoint) or (_damage_of_best(checkpoint) if with_best else None)
        if reason is None:
            return checkpoint
        logger.warning(f"{checkpoint} is damaged and is left out: {reason}.")
    return None


def _damage(checkpoint: Path) -> str | None:
    if has_manifest(checkpoint):
        return damage(checkpoint)
    return f"{TRAINER_STATE_NAME} cannot be read" if _state(checkpoint) is None else None


def _damage_of_best(checkpoint: Path) -> str | None:
    state = _state(checkpoint)
    if state is None or not state.best_model_checkpoint:
        return None
    best = checkpoint.with_name(Path(state.best_model_checkpoint).name)
    if not best.is_dir():
        return f"the best checkpoint until then, {best.name}, is missing"
    reason = _damage(best)
    return f"the best checkpoint until then, {best.name}, is damaged ({reason})" if reason else None


def _state(checkpoint: Path) -> TrainerState | None:
    try:
        return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def claim_folder(setting: str, folder: Path, settings: Mapping[str, Any], writes: Sequence[str] = ()) -> bool:
    """Check that a run with these settings may write into `folder` and resume from the checkpoints in it.

    Args:
        setting: name of the setting that gave the folder, for messages.
        folder: is made where it does not exist.
        settings: whatever decides what the run computes, as JSON values.
        writes: further files that the run writes, which must not be those of somebody else.

    Returns:
        Whether a run with the same settings was finished here.

    Raises:
        ValueError: the folder cannot be written to, or holds a model or checkpoints of a run with other settings, or
            files that no run has written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{setting}={str(folder)!r} cannot be written ({error.strerror}): choose another.") from None
    record = _read_record(folder)
    if not _checkpoints(folder) and not (folder / CONFIG_NAME).exists():
        if record is None and (found := [name for name in writes if (folder / name).exists()]):
            raise ValueError(
                f"{setting}={str(folder)!r} holds {', '.join(found)}, which the run would replace: choose another "
                f"{setting}."
            )
        return False
    if record is None:
        raise ValueError(f"{setting}={str(folder)!r} holds a model of unknown origin: choose another {setting}.")
    earlier = record["settings"] | (record["settings"].get("evaluation of teacher") or {})
    changed = sorted(differences(earlier, settings) - NOT_COMPARED)
    if changed:
        raise ValueError(
            f"{setting}={str(folder)!r} holds a run that differs in {', '.join(changed)}: choose another {setting}, "
            "or remove that run."
        )
    if record["finished"] and has_manifest(folder) and (reason := damage(folder)):
        raise ValueError(f"{setting}={str(folder)!r} is damaged: {reason}: remove it to make it again.")
    return record["finished"]


def record_run(folder: Path, settings: Mapping[str, Any], finished: bool) -> None:
    """Write down whose folder this is, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_at_once(folder / RECORD_FILE, json.dumps({"finished": finished, "settings": settings}, indent=2) + "\n")


def is_unfinished(folder: Path) -> bool:
    """Whether a run was begun in this folder and not finished."""
    record = _read_record(folder)
    return record is not None and not record["finished"]


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD_FILE).read_text())
    except (OSError, ValueError):
        return None
    is_record = isinstance(record, dict) and record.keys() == {"finished", "settings"}
    return record if is_record and isinstance(record["settings"], dict) else None


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run."""
    for checkpoint in _checkpoints(folder):
        shutil.rmtree(checkpoint)


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))
