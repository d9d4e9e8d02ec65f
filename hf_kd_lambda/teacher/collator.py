"""Batches with the cached outputs of the teacher."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from hf_kd_lambda.data.columns import (
    KEPT,
    LABELS,
    TEACHER_INPUTS_DIGEST,
    TEACHER_LOGITS,
    TEACHER_OUTPUTS,
    TEACHER_PREFIX,
)
from hf_kd_lambda.teacher.row_digest import row_digests


class ColumnCollator:
    """Puts what the teacher said beside a batch of the other columns, of which a collator knows how to make one.

    Args:
        collate: from examples to a batch.
        kept: columns that the collator is given, beside labels and the teacher's own; None for all.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], kept: Collection[str] | None) -> None:
        self.collate = collate
        self.kept = kept
        self.tokenizer = getattr(collate, "tokenizer", None)  # which the Trainer saves where it has none of its own

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """A batch, with `teacher_logits` in fp32 and `teacher_outputs` by their names, where the examples have them.

        They are `[examples, ...]`, or of tokens `[examples, length, ...]`, padded as the `attention_mask` is.
        Examples without names of their columns, say tuples, are the collator's alone.

        Raises:
            ValueError: what the teacher said of an example is for another number of tokens than it has.
        """
        if not isinstance(examples[0], Mapping):
            return dict(self.collate(examples))
        batch = dict(self.collate([self._given(example) for example in examples]))
        mask = batch.get("attention_mask")
        if TEACHER_LOGITS in examples[0]:
            logits = [torch.as_tensor(example[TEACHER_LOGITS], dtype=torch.float32) for example in examples]
            batch[TEACHER_LOGITS] = _batched(logits, mask)
        if TEACHER_OUTPUTS in examples[0]:
            rows = [unpacked(example[TEACHER_OUTPUTS]) for example in examples]
            batch[TEACHER_OUTPUTS] = {name: _batched([row[name] for row in rows], mask) for name in rows[0]}
        if TEACHER_INPUTS_DIGEST in examples[0]:
            self._check_rows(batch, [example[TEACHER_INPUTS_DIGEST] for example in examples])
        return batch

    def _check_rows(self, batch: dict[str, Any], expected: list[bytes]) -> None:
        """Refuse rows of other inputs than those that the cached outputs were computed from."""
        if row_digests(batch) != expected:
            raise ValueError(
                "data_collator makes a batch whose rows are not the examples that the teacher's outputs were cached "
                "for: it sorts, drops, merges or changes rows. Set cache_teacher to False, and the teacher runs at "
                "each step."
            )

    def _given(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in example.items() if name not in KEPT and self._is_kept(name)}

    def _is_kept(self, name: str) -> bool:
        return self.kept is None or name in self.kept or name in LABELS or name.startswith(TEACHER_PREFIX)


def packed(tensors: dict[str, Tensor]) -> bytes:
    """Tensors by their names as the bytes that are a row of `teacher_outputs`: a safetensors, and a full stop."""
    return save(tensors) + b"."  # datasets' numpy format drops what bytes end with, where that is zeros


def unpacked(row: bytes) -> dict[str, Tensor]:
    """What `packed` was given."""
    return load(row[:-1])


def _batched(rows: list[Tensor], attention_mask: Tensor | None) -> Tensor:
    if rows[0].dim() == 1 or attention_mask is None:
        return torch.stack(rows)
    return padded(rows, attention_mask)


def padded(rows: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """Rows of tokens as a batch again, `[examples, length, ...]`, zeros at its padding.

    Args:
        rows: `[tokens, ...]` of each example.
        attention_mask: `[examples, length]` of the batch, 0 at padding.

    Raises:
        ValueError: a row is for another number of tokens than the mask has.
    """
    is_token = attention_mask.bool()
    for row, tokens in zip(rows, is_token.sum(-1).tolist(), strict=True):
        if len(row) != tokens:
            raise ValueError(
                f"the teacher's outputs of an example are for {len(row)} tokens, but it has {tokens}: keep one for "
                "each token, special ones too, and none for padding."
            )
    batch = rows[0].new_zeros(*is_token.shape, *rows[0].shape[1:])
    batch[is_token] = torch.cat(list(rows))
    return batch
