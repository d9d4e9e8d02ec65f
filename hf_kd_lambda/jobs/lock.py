"""Locks of folders, so that two commands never write into one.

The operating system frees a lock when its process ends, however it ends, so that none is ever stale.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from transformers.utils import logging

logger = logging.get_logger(__name__)

LOCK, HOLDER = ".lock", ".lock_holder.json"
LONGEST_WAIT = 60.0
"""Seconds of waiting after which all processes of a command meet again."""


@contextmanager
def locked(setting: str, folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other commands out of a folder. All processes of a command must call this together.

    Args:
        setting: setting with the folder, for the message.
        folder: is made if it does not exist.
        wait: until another command has left it, instead of refusing.

    Raises:
        ValueError: another command has it, or it cannot be written to.
    """
    lock, seconds, is_waiting = None, 0.0, True
    while is_waiting:
        refusal: str | None = None
        if PartialState().is_main_process:
            try:
                lock = _acquire(setting, folder, wait, seconds)
            except ValueError as error:
                refusal = str(error)
        # The others must not go on, or wait for ever, where the main process was refused; nor for longer than a
        # collective may take.
        refusal, is_waiting = broadcast_object_list([refusal, refusal is None and lock is None])
        if refusal is not None:
            raise ValueError(refusal)
        seconds = LONGEST_WAIT
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(setting: str, folder: Path, wait: bool, seconds: float) -> FileLock | None:
    """The lock; None if another command had it for so many seconds, and waiting is asked for."""
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
        (folder / HOLDER).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    except Timeout:
        if wait:
            logger.warning(f"waiting for {setting}={str(folder)!r}, which is in use by {_holder(folder)}")
            return None
        raise ValueError(
            f"{setting}={str(folder)!r} is in use by {_holder(folder)}: wait for it, stop it, or choose another "
            f"{setting}."
        ) from None
    except OSError as error:
        raise ValueError(f"{setting}={str(folder)!r} cannot be written ({error.strerror}): choose another.") from None
    return lock


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['pid']} on host {holder['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another command"
