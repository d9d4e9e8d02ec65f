"""Collates batches with the teacher's cached outputs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from hf_kd_lambda.data.columns import (
    ADDED_COLUMNS,
    EXAMPLE_ROW,
    LABELS,
    TEACHER_INPUTS_DIGEST,
    TEACHER_LOGITS,
    TEACHER_OUTPUTS,
    TEACHER_PREFIX,
)
from hf_kd_lambda.teacher.row_digest import row_digests


class ColumnCollator:
    """Adds the teacher's cached outputs, and the examples' positions, to the batch that another collator makes.

    Args:
        collate: the other collator.
        kept: columns that it gets, in addition to labels and the teacher's own inputs; None for all.
        kept_of_teacher: inputs of the teacher, of which it gets columns with the prefix `teacher_`; None for all.
    """

    def __init__(
        self,
        collate: Callable[[list[Any]], Any],
        kept: Collection[str] | None,
        kept_of_teacher: Collection[str] | None = None,
    ) -> None:
        self.collate = collate
        self.kept = kept
        self.kept_of_teacher = kept_of_teacher
        self.tokenizer = getattr(collate, "tokenizer", None)  # saved by a Trainer without a processing_class

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """A batch, with `teacher_logits` in fp32, `teacher_outputs` by name and positions if the examples have them.

        Outputs are `[examples, ...]`, or `[examples, length, ...]` for tokens, padded like the `attention_mask`.
        Examples without column names, for example tuples, go to the other collator only.

        Raises:
            ValueError: an example and its teacher outputs have different numbers of tokens, or the rows of the batch
                are not the examples that the outputs were cached for.
        """
        if not isinstance(examples[0], Mapping):
            return dict(self.collate(examples))
        batch = dict(self.collate([self._collated(example) for example in examples]))
        mask = batch.get("attention_mask")
        if TEACHER_LOGITS in examples[0]:
            logits = [torch.as_tensor(example[TEACHER_LOGITS], dtype=torch.float32) for example in examples]
            batch[TEACHER_LOGITS] = _batched(logits, mask)
        if TEACHER_OUTPUTS in examples[0]:
            rows = [unpacked(example[TEACHER_OUTPUTS]) for example in examples]
            batch[TEACHER_OUTPUTS] = {name: _batched([row[name] for row in rows], mask) for name in rows[0]}
        if EXAMPLE_ROW in examples[0]:
            batch[EXAMPLE_ROW] = torch.tensor([int(example[EXAMPLE_ROW]) for example in examples])
        if TEACHER_INPUTS_DIGEST in examples[0]:
            self._check_rows(batch, [example[TEACHER_INPUTS_DIGEST] for example in examples])
        return batch

    def _check_rows(self, batch: dict[str, Any], expected: list[bytes]) -> None:
        """Check that the rows are the inputs that the cached outputs were computed from."""
        if row_digests(batch) != expected:
            raise ValueError(
                "the batch does not match the cached teacher outputs: either data_collator sorts, drops, merges or "
                "changes rows, or files that the examples name have changed since the outputs were cached. Set "
                "cache_teacher to False to run the teacher at each step, or teacher_cache_dir to an empty folder."
            )

    def _collated(self, example: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in example.items() if name not in ADDED_COLUMNS and self._is_kept(name)}

    def _is_kept(self, name: str) -> bool:
        if self.kept is None or name in self.kept or name in LABELS:
            return True
        own = name.removeprefix(TEACHER_PREFIX)
        return own != name and (self.kept_of_teacher is None or own in self.kept_of_teacher)


def packed(tensors: dict[str, Tensor]) -> bytes:
    """Tensors by name as bytes, a row of `teacher_outputs`: a safetensors blob and a final full stop."""
    return save(tensors) + b"."  # datasets' numpy format drops trailing zero bytes


def unpacked(row: bytes) -> dict[str, Tensor]:
    """The inverse of `packed`."""
    return load(row[:-1])


def _batched(rows: list[Tensor], attention_mask: Tensor | None) -> Tensor:
    if rows[0].dim() == 1 or attention_mask is None:
        return torch.stack(rows)
    return padded(rows, attention_mask)


def padded(rows: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """Rows of tokens as a batch `[examples, length, ...]`, zeros at padding.

    Args:
        rows: `[tokens, ...]` for every example.
        attention_mask: `[examples, length]` of the batch, 0 at padding.

    Raises:
        ValueError: a row and the mask have different numbers of tokens.
    """
    is_token = attention_mask.bool()
    for row, tokens in zip(rows, is_token.sum(-1).tolist(), strict=True):
        if len(row) != tokens:
            raise ValueError(
                f"the teacher's outputs of an example have {len(row)} tokens, but the example has {tokens}: give one "
                "row per token, including special tokens, without padding."
            )
    batch = rows[0].new_zeros(*is_token.shape, *rows[0].shape[1:])
    batch[is_token] = torch.cat(list(rows))
    return batch
