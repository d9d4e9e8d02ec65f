"""Which teacher outputs are cached per example: all logits or the top k, hidden states, logits of several teachers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from hf_kd_lambda.data.columns import TEACHER_LOGITS, TEACHER_OUTPUTS, column_names
from hf_kd_lambda.losses.base import TeacherBatch, TopLogits
from hf_kd_lambda.teacher.cache_file import Rows
from hf_kd_lambda.teacher.collator import packed, unpacked

HALF = torch.finfo(torch.half)
_SHARES, _TOP, _INDICES = "shares", "top_log_probs", "top_indices"


@dataclass(frozen=True)
class CacheFormat:
    """Converts teacher outputs to cached columns, and batches of these columns back to outputs.

    All logits are cached in fp32 in the column `teacher_logits`, so training with them equals training with the
    teacher. Hidden states are cached in fp16, which changes λ by about 1e-3. They are stored as one safetensors blob
    per example in `teacher_outputs`, because Arrow lists are slow to read. The logits of each of several teachers are
    there too, in fp32, and their mean is in `teacher_logits`.

    32,000 logits of a token take 128 kB, its top 64 take 384 bytes. The text of a format is a part of the name of its
    cache files.

    Args:
        hidden_states: for every hidden state of the teacher, whether it is cached. Values are clamped to fp16's range.
        top_logits: number k of largest logits to cache per token, as log-probabilities; None for all logits.
        temperature: T of these log-probabilities.
        classes: number of teacher outputs; needed with `top_logits`.
        shares: weights of several teachers, whose logits are all cached; empty for one, or for their mean alone.
    """

    hidden_states: tuple[bool, ...] = ()
    top_logits: int | None = None
    temperature: float = 1.0
    classes: int = field(default=0, repr=False, compare=False)
    shares: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in a dataset."""
        if self.top_logits is not None:
            return (TEACHER_OUTPUTS,)
        return (TEACHER_LOGITS, TEACHER_OUTPUTS) if any(self.hidden_states) or self.shares else (TEACHER_LOGITS,)

    @property
    def names(self) -> set[str]:
        """Names of the tensors in `teacher_outputs`."""
        names = {_hidden(index) for index, is_cached in enumerate(self.hidden_states) if is_cached}
        names |= {_member(index) for index in range(len(self.shares))}
        return names | ({_TOP, _INDICES} if self.top_logits is not None else set())

    def is_in(self, examples: Any) -> bool:
        """Whether a dataset has all of these outputs, by its first row; of a stream, whether it has the columns."""
        has_columns = set(self.columns) <= set(column_names(examples))
        return has_columns and (not isinstance(examples, Dataset) or self.names <= _first_outputs(examples).keys())

    def is_in_batch(self, batch: Mapping[str, Any]) -> bool:
        """Whether a batch has all of these outputs."""
        return set(self.columns) <= batch.keys() and self.names <= batch.get(TEACHER_OUTPUTS, {}).keys()

    def rows(self, outputs: TeacherBatch, attention_mask: Tensor | None) -> Rows:
        """The columns to cache: one row per example, without padding.

        Args:
            outputs: all logits `[examples, (length,) classes]`, and `hidden_states`, `[examples, length, hidden]` for
                tokens.
            attention_mask: `[examples, length]`, 0 at padding; None without padding.
        """
        tensors = {
            _hidden(index): outputs.inner["hidden_states"][index].clamp(HALF.min, HALF.max).half()
            for index, is_cached in enumerate(self.hidden_states)
            if is_cached
        }
        columns: Rows = {}
        logits = outputs.logits.float()
        if self.shares:
            members = member_tensors(outputs.members, self.shares)
            tensors |= {**members, _SHARES: members[_SHARES].expand(len(logits), -1)}
        if self.top_logits is None:
            columns[TEACHER_LOGITS] = [*_rows(logits, attention_mask)]
        else:
            top, indices = (logits / self.temperature).log_softmax(-1).topk(self.top_logits, dim=-1)
            tensors |= {_TOP: top.clamp(min=HALF.min).half(), _INDICES: indices.int()}
        if tensors:
            rows = {name: _rows(values, attention_mask) for name, values in tensors.items()}
            columns[TEACHER_OUTPUTS] = [
                packed(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)
            ]
        return columns

    def batch(self, columns: Mapping[str, Any]) -> TeacherBatch:
        """The teacher's outputs from the cached columns of a batch; None for hidden states that are not cached."""
        cached = columns.get(TEACHER_OUTPUTS, {})
        inner: dict[str, Any] = {}
        if any(self.hidden_states):
            inner["hidden_states"] = tuple(cached.get(_hidden(index)) for index in range(len(self.hidden_states)))
        if self.top_logits is None:
            members = tuple(cached[_member(index)] for index in range(len(self.shares)))
            return TeacherBatch(columns[TEACHER_LOGITS], inner=inner, members=members)
        top_k = TopLogits(cached[_TOP], cached[_INDICES], self.classes, self.temperature)
        return TeacherBatch(None, top_k, inner)


def member_tensors(members: Sequence[Tensor], weights: Sequence[float]) -> dict[str, Tensor]:
    """Logits of several teachers in fp32, and their weights `[teachers]`, by their names in `teacher_outputs`.

    Args:
        members: logits `[..., classes]` of every teacher.
        weights: of the members; they sum to 1.
    """
    logits = {_member(index): values.float() for index, values in enumerate(members)}
    return {**logits, _SHARES: torch.tensor(weights, dtype=torch.float64)}


def teacher_weights_in(examples: Any) -> list[float] | None:
    """The weights of several teachers whose logits a dataset stores; None if it does not.

    Args:
        examples: a dataset; one without random access stores none.
    """
    weights = _first_outputs(examples).get(_SHARES)
    return None if weights is None else weights.tolist()


def cached_members(examples: Dataset) -> list[Tensor]:
    """Logits `[examples, classes]` of each of several teachers, from a dataset that stores them."""
    rows = [unpacked(row) for row in examples.with_format(None)[TEACHER_OUTPUTS][:]]
    return [torch.stack([row[_member(index)] for row in rows]) for index in range(len(rows[0][_SHARES]))]


def _first_outputs(examples: Any) -> dict[str, Tensor]:
    """The `teacher_outputs` of the first row of a dataset; none of one without them, or without random access."""
    if TEACHER_OUTPUTS not in column_names(examples) or not isinstance(examples, Dataset) or not len(examples):
        return {}
    return unpacked(examples.with_format(None)[0][TEACHER_OUTPUTS])


def _hidden(index: int) -> str:
    return f"hidden_states.{index}"


def _member(index: int) -> str:
    return f"member_logits.{index}"


def _rows(values: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """One tensor per example, copied: a view would be sent to other ranks with its whole batch."""
    values = values.cpu()
    if attention_mask is None or values.dim() < 3:
        return [row.clone() for row in values]
    return [row[mask] for row, mask in zip(values, attention_mask.bool().cpu(), strict=True)]
