"""Which columns of the examples go into a batch, and which of a batch to which model."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset, LargeList, List
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers.trainer_utils import unwrap_peft_model

TEACHER_PREFIX = "teacher_"
TEACHER_LOGITS = "teacher_logits"
TEACHER_OUTPUTS = "teacher_outputs"
KEPT = (TEACHER_LOGITS, TEACHER_OUTPUTS)
"""What the teacher said; see `KeptOutputs`."""
LABELS = ("label", "label_ids", "labels", "shift_labels")


def forward_parameters(model: nn.Module) -> set[str]:
    """Names of the inputs that a model's `forward` takes, but for the labels, which the trainer keeps to itself."""
    # The forward of PEFT's wrappers passes on more than it names.
    return set(inspect.signature(unwrap_peft_model(model).forward).parameters) - {"labels"}


def column_names(dataset: Any) -> Collection[str]:
    """Of a dataset; none where it does not tell."""
    return getattr(dataset, "column_names", None) or ()


def own_inputs(columns: Collection[str]) -> list[str]:
    """The columns that go to the teacher alone, without their prefix."""
    return [column for column in columns if column.startswith(TEACHER_PREFIX) and column not in KEPT]


def teacher_inputs(batch: Mapping[str, Any], accepted: Collection[str]) -> dict[str, Any]:
    """What of a batch, or of the columns of a dataset, is the teacher's: its own if there are any, else the student's.

    Args:
        batch: by names.
        accepted: inputs of the teacher's `forward`.
    """
    own = {name.removeprefix(TEACHER_PREFIX): batch[name] for name in own_inputs(batch)}
    return own or {name: value for name, value in batch.items() if name in accepted}


def token_counts(examples: Dataset, columns: Sequence[str] = ("input_ids",)) -> list[int]:
    """How many tokens each example has in the first of these columns that there is; 1 where there is none."""
    for column in columns:
        if isinstance(examples.features.get(column), LargeList | List):
            table = examples.select_columns([column]).with_format("arrow")[:]
            return pc.list_value_length(table[column]).to_pylist()
    return [1] * len(examples)


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
        return batch

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
