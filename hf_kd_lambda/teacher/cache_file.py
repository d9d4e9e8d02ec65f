"""A teacher's outputs on disk: one memory-mapped Arrow file for each fingerprint, whole or not there."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from torch import Tensor
from transformers.utils import logging

from hf_kd_lambda.utils.fingerprint import file_digest

logger = logging.get_logger(__name__)

Rows = dict[str, list[Tensor | bytes]]
"""Of each column one row an example: a tensor, of one shape or `[tokens, ...]`, or bytes of its tokens."""

_DATA, _RECORD = "outputs.arrow", "outputs.json"
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1000, 2**27


class CacheUnavailableError(Exception):
    """The teacher's outputs cannot be kept; the message is the reason."""


def load_outputs(folder: Path, name: str, examples: int) -> Dataset | None:
    """The outputs kept under this name, memory-mapped, in the order of the examples; None if there are no whole ones.

    Args:
        folder: of all such files.
        name: a fingerprint of all that decides the outputs.
        examples: their number.
    """
    entry = folder / name
    if not entry.exists():
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((entry / _RECORD).read_text())
        if record["examples"] == examples and record["sha256"] == file_digest(entry / _DATA):
            return Dataset.from_file(str(entry / _DATA))
    logger.warning(f"{entry} is torn or not ours: what the teacher says is computed anew.")
    return None


def keep_outputs(
    folder: Path, name: str, batches: Sequence[Sequence[int]], outputs: Iterable[Rows], lengths: Sequence[int]
) -> None:
    """Write outputs to where `load_outputs` finds them, in one step and in the order of the examples.

    Of two processes that write the same, the first to end provides it to both.

    Args:
        folder, name: as in `load_outputs`.
        batches: the indices of the examples, batch by batch.
        outputs: of each batch.
        lengths: of all examples, in tokens.

    Raises:
        CacheUnavailableError: the disk has no room for them.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=folder, ignore_cleanup_errors=True) as scratch:
        computed, entry = Path(scratch) / _DATA, Path(scratch) / name
        entry.mkdir()
        order = _write_computed(computed, batches, outputs, lengths)
        _write_ordered(entry / _DATA, Dataset.from_file(str(computed)), order)
        record = {"examples": len(order), "sha256": file_digest(entry / _DATA)}
        (entry / _RECORD).write_text(json.dumps(record) + "\n")
        try:
            os.rename(entry, folder / name)
        except OSError:  # not empty: another process was faster, or what lies there is torn
            if load_outputs(folder, name, len(order)) is None:
                os.rename(folder / name, Path(scratch) / "torn")
                os.rename(entry, folder / name)


def _write_computed(
    path: Path, batches: Sequence[Sequence[int]], outputs: Iterable[Rows], lengths: Sequence[int]
) -> list[int]:
    """Write the outputs as they come; return, for each example, in which row it is."""
    with ArrowWriter(path=str(path)) as writer:
        for index, (_, rows) in enumerate(zip(batches, outputs, strict=False)):
            if index == 0:
                _state_size(path.parent.parent, rows, lengths)
            writer.write_batch({column: [_as_written(row) for row in values] for column, values in rows.items()})
        writer.finalize()
    return torch.tensor([index for batch in batches for index in batch]).argsort().tolist()


def _as_written(row: Tensor | bytes) -> np.ndarray | bytes:
    return row.numpy() if isinstance(row, Tensor) else row


def _write_ordered(path: Path, computed: Dataset, order: Sequence[int]) -> None:
    rows_at_once = max(_BYTES_AT_ONCE * len(computed) // computed.data.nbytes, 1)
    with ArrowWriter(path=str(path), features=computed.features) as writer:
        for table in computed.select(order).with_format("arrow").iter(min(rows_at_once, _ROWS_AT_ONCE)):
            writer.write_table(table)
        writer.finalize()


def _state_size(folder: Path, rows: Rows, lengths: Sequence[int]) -> None:
    """Say what will be kept, from the outputs of the first batch, and refuse what the disk has no room for."""
    size = 0.0
    for values in rows.values():
        first = values[0]  # the longest example's
        of_example = isinstance(first, Tensor) and first.dim() < 2
        bytes_of_first = first.nbytes if isinstance(first, Tensor) else len(first)
        size += bytes_of_first * (len(lengths) if of_example else sum(lengths) / max(lengths))
    logger.warning(f"keeping {', '.join(rows)} of {len(lengths)} examples in {folder}: {size / 1e6:.1f} MB")
    if 2 * size > shutil.disk_usage(folder).free:  # twice: as computed, and in the examples' order
        raise CacheUnavailableError(f"writing them takes {2 * size / 1e6:.0f} MB, more than the disk has free")
