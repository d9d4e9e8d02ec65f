"""The teacher's outputs on disk: one memory-mapped Arrow file per fingerprint, written atomically."""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from torch import Tensor
from transformers.utils import logging

from hf_kd_lambda.utils.fingerprint import DIGITS, file_digest

logger = logging.get_logger(__name__)

Rows = dict[str, list[Tensor | bytes]]
"""Columns by name, with one row per example: a tensor of fixed shape or `[tokens, ...]`, or bytes."""

_DATA, _RECORD = "outputs.arrow", "outputs.json"
_SCRATCH = re.compile(rf"[0-9a-f]{{{DIGITS}}}\.[a-z0-9_]{{8}}")  # a fingerprint, and what tempfile adds to it
_ABANDONED = 24 * 3600  # seconds without a write after which a temporary folder is nobody's
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1000, 2**27


class CacheUnavailableError(Exception):
    """The teacher's outputs cannot be cached; the message is the reason."""


def load_outputs(folder: Path, name: str, examples: int) -> Dataset | None:
    """The cached outputs of this name, memory-mapped, in the order of the examples; None if missing or corrupt.

    Args:
        folder: cache folder.
        name: fingerprint of everything that determines the outputs.
        examples: number of examples.
    """
    entry = folder / name
    try:
        if not entry.exists():
            return None
    except OSError:  # of a folder that belongs to another user
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((entry / _RECORD).read_text())
        if record["examples"] == examples and record["sha256"] == file_digest(entry / _DATA):
            return Dataset.from_file(str(entry / _DATA))
    logger.warning(f"{entry} is corrupt; recomputing teacher outputs.")
    return None


def save_outputs(
    folder: Path, name: str, batches: Sequence[Sequence[int]], outputs: Iterable[Rows], lengths: Sequence[int]
) -> None:
    """Write outputs for `load_outputs`, atomically and in the order of the examples.

    If two processes write the same name, both use the file of the process that finishes first.

    Args:
        folder, name: as in `load_outputs`.
        batches: indices of the examples in every batch.
        outputs: outputs of every batch.
        lengths: number of tokens of every example.

    Raises:
        CacheUnavailableError: there is not enough disk space.
        OSError: the folder is not writable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_left_over(folder)
    with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=folder, ignore_cleanup_errors=True) as scratch:
        computed, entry = Path(scratch) / _DATA, Path(scratch) / name
        entry.mkdir()
        order = _write_computed(computed, batches, outputs, lengths)
        _write_ordered(entry / _DATA, Dataset.from_file(str(computed)), order)
        record = {"examples": len(order), "sha256": file_digest(entry / _DATA)}
        (entry / _RECORD).write_text(json.dumps(record) + "\n")
        try:
            os.rename(entry, folder / name)
        except OSError:  # not empty: another process was faster, or the entry is corrupt
            if load_outputs(folder, name, len(order)) is None:
                os.rename(folder / name, Path(scratch) / "corrupt")
                os.rename(entry, folder / name)


def _remove_left_over(folder: Path) -> None:
    """Remove what killed processes have left half written: temporary folders in which nothing changed for a day.

    The user may have chosen a folder with other content, which stays.
    """
    for scratch in folder.iterdir():
        if not _SCRATCH.fullmatch(scratch.name):
            continue
        with suppress(OSError):  # another process may remove it, too
            changed = max(path.stat().st_mtime for path in (scratch, *scratch.rglob("*")))
            if scratch.is_dir() and time.time() - changed > _ABANDONED:
                shutil.rmtree(scratch)


def _write_computed(
    path: Path, batches: Sequence[Sequence[int]], outputs: Iterable[Rows], lengths: Sequence[int]
) -> list[int]:
    """Write the outputs in the order of the batches; return the row of every example."""
    with ArrowWriter(path=str(path)) as writer:
        for index, (_, rows) in enumerate(zip(batches, outputs, strict=False)):
            if index == 0:
                _check_space(path.parent.parent, rows, lengths)
            writer.write_batch({column: [_to_arrow(row) for row in values] for column, values in rows.items()})
        writer.finalize()
    return torch.tensor([index for batch in batches for index in batch]).argsort().tolist()


def _to_arrow(row: Tensor | bytes) -> np.ndarray | bytes:
    return row.numpy() if isinstance(row, Tensor) else row


def _write_ordered(path: Path, computed: Dataset, order: Sequence[int]) -> None:
    rows_at_once = max(_BYTES_AT_ONCE * len(computed) // computed.data.nbytes, 1)
    with ArrowWriter(path=str(path), features=computed.features) as writer:
        for table in computed.select(order).with_format("arrow").iter(min(rows_at_once, _ROWS_AT_ONCE)):
            writer.write_table(table)
        writer.finalize()


def _check_space(folder: Path, rows: Rows, lengths: Sequence[int]) -> None:
    """Log the size of the cache, estimated from the first batch, and check that the disk has enough space."""
    size = 0.0
    for values in rows.values():
        longest = values[0]  # batches start with the longest example
        per_example = isinstance(longest, Tensor) and longest.dim() < 2
        nbytes = longest.nbytes if isinstance(longest, Tensor) else len(longest)
        size += nbytes * (len(lengths) if per_example else sum(lengths) / max(lengths))
    logger.warning(f"caching {', '.join(rows)} of {len(lengths)} examples in {folder}: {size / 1e6:.1f} MB")
    free = shutil.disk_usage(folder).free
    if 2 * size > free:  # two copies: in the order of the batches, and in that of the examples
        raise CacheUnavailableError(
            f"writing them needs {2 * size / 1e6:.0f} MB, but the disk has {free / 1e6:.0f} MB free"
        )
