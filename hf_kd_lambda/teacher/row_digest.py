"""Digests of the rows of a batch, to check that cached outputs belong to the same inputs."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.data.columns import ADDED_COLUMNS, LABELS, TEACHER_PREFIX


def row_digests(batch: Mapping[str, Any]) -> list[bytes]:
    """A digest of the inputs in every row of a batch, without padding and labels.

    Args:
        batch: tensors `[rows, ...]` by name. From tensors `[rows, length, ...]`, padding is removed by their
            `attention_mask`; `teacher_*` inputs have their own mask.
    """
    names = sorted(n for n, value in batch.items() if isinstance(value, Tensor) and n not in (*ADDED_COLUMNS, *LABELS))
    digests = [0] * len(batch[names[0]]) if names else []
    for name in names:
        # In NumPy: indexing row by row takes torch 13 times as long.
        tensor = batch[name].detach().cpu().contiguous()
        values = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        mask = batch.get(f"{TEACHER_PREFIX if name.startswith(TEACHER_PREFIX) else ''}attention_mask")
        is_padded = mask is not None and values.shape[:2] == mask.shape
        attended = mask.bool().cpu().numpy() if is_padded and mask is not None else None
        for row, value in enumerate(values):
            content = value if attended is None else value[attended[row]]
            digests[row] = zlib.crc32(content.tobytes(), zlib.crc32(name.encode(), digests[row]))
    return [f"{digest:08x}".encode() for digest in digests]


def collated(
    collate: Callable[[list[Any]], dict[str, Any]], examples: list[Any]
) -> tuple[dict[str, Any], list[bytes]]:
    """A batch and the digests of its rows; no digests if its rows are not the examples.

    The rows are the examples if the same examples in reverse order give the same rows in reverse order. To collate
    every example alone would take longer than a small teacher's forward.

    Args:
        collate: from examples to a batch.
        examples: of the batch.
    """
    batch, reverse = collate(examples), collate(examples[::-1])
    digests = row_digests(batch)
    is_same = len(digests) == len(examples) and digests == row_digests(reverse)[::-1]
    return batch, digests if is_same else []
