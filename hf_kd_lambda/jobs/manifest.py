"""Manifests of checkpoints: size and hash of every file, by which a damaged checkpoint is recognised."""

import errno
import json
import os
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_kd_lambda.utils.fingerprint import file_digest
from hf_kd_lambda.utils.paths import write_at_once

MANIFEST = "manifest.json"


class WriteManifests(TrainerCallback):
    """Writes the manifest of each checkpoint when all processes have saved their part of it."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Wait for the other processes, then write the manifest."""
        PartialState().wait_for_everyone()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if args.should_save and folder.is_dir():
            write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """Write a folder's files and then its manifest to the disk, so that a manifest is never older than a file."""
    files = {path.name: _entry(path) for path in _files(folder)}
    write_at_once(folder / MANIFEST, json.dumps({"files": files}, indent=1))
    _to_disk(folder)


def has_manifest(folder: Path) -> bool:
    """Whether a checkpoint was written to its end by a version that writes manifests."""
    return (folder / MANIFEST).exists()


def damage(folder: Path) -> str | None:
    """The first difference between a folder and its manifest, in words; None if there is none."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['size']}"
            if file_digest(path) != entry["sha256"]:
                return f"the content of {name} has changed"
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None if files else f"{MANIFEST} is empty"


def _files(folder: Path) -> list[Path]:
    """All but hidden files, such as locks, and the manifest itself; folders inside are those of other models."""
    left_out = (".", MANIFEST)
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(left_out))


def _entry(path: Path) -> dict[str, Any]:
    """Size and hash of a file, once its content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": file_digest(path)}


def _to_disk(folder: Path) -> None:
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems cannot, such as those shared with a virtual machine
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
