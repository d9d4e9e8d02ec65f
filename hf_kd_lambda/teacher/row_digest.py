"""Digests of the rows of a batch, by which cached outputs are recognised as those of the same inputs."""

import zlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_kd_lambda.data.columns import KEPT, LABELS, TEACHER_PREFIX


def row_digests(batch: Mapping[str, Any]) -> list[bytes]:
    """A digest of the inputs in each row of a batch, without its padding; labels do not count.

    Args:
        batch: tensors `[rows, ...]` by name. One whose second dimension is that of its `attention_mask` is cut to the
            positions that the mask keeps; `teacher_*` inputs have a mask of their own.
    """
    names = sorted(n for n, value in batch.items() if isinstance(value, Tensor) and n not in (*KEPT, *LABELS))
    digests = [0] * len(batch[names[0]]) if names else []
    for name in names:
        prefix = TEACHER_PREFIX if name.startswith(TEACHER_PREFIX) else ""
        values, mask = batch[name].detach().cpu(), batch.get(f"{prefix}attention_mask")
        is_padded = mask is not None and values.shape[:2] == mask.shape
        for row, value in enumerate(values):
            kept = value[mask[row].bool().cpu()] if is_padded and mask is not None else value
            digests[row] = zlib.crc32(kept.contiguous().numpy().tobytes(), zlib.crc32(name.encode(), digests[row]))
    return [f"{digest:08x}".encode() for digest in digests]
