"""Digests of the rows of a batch, to check that cached outputs belong to the same inputs."""

import zlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_kd_lambda.data.columns import KEPT, LABELS, TEACHER_PREFIX


def row_digests(batch: Mapping[str, Any]) -> list[bytes]:
    """A digest of the inputs in every row of a batch, without padding and labels.

    Args:
        batch: tensors `[rows, ...]` by name. From tensors `[rows, length, ...]`, padding is removed by their
            `attention_mask`; `teacher_*` inputs have their own mask.
    """
    names = sorted(n for n, value in batch.items() if isinstance(value, Tensor) and n not in (*KEPT, *LABELS))
    digests = [0] * len(batch[names[0]]) if names else []
    for name in names:
        prefix = TEACHER_PREFIX if name.startswith(TEACHER_PREFIX) else ""
        values, mask = batch[name].detach().cpu(), batch.get(f"{prefix}attention_mask")
        is_padded = mask is not None and values.shape[:2] == mask.shape
        for row, value in enumerate(values):
            attended = value[mask[row].bool().cpu()] if is_padded and mask is not None else value
            digests[row] = zlib.crc32(attended.contiguous().numpy().tobytes(), zlib.crc32(name.encode(), digests[row]))
    return [f"{digest:08x}".encode() for digest in digests]
