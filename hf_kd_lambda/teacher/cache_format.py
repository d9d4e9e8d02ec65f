"""Which of the teacher's outputs are cached for each example: all logits, or the largest of them; hidden states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.data.columns import TEACHER_LOGITS, TEACHER_OUTPUTS
from hf_kd_lambda.losses.base import TeacherBatch, TopLogits
from hf_kd_lambda.teacher.cache_file import Rows
from hf_kd_lambda.teacher.collator import packed

HALF = torch.finfo(torch.half)


@dataclass(frozen=True)
class CacheFormat:
    """What is cached for an example, and how a batch is made of it.

    All logits are cached in fp32, in the column `teacher_logits`: training on them is training on the teacher itself.
    The rest is cached in fp16, which changes λ by about 1e-3; and as one safetensors an example in `teacher_outputs`,
    since Arrow's lists are slow to read.

    A token with 32,000 logits takes 128 kB, with the 64 largest of them 384 bytes.

    Args:
        hidden_states: for each of the teacher's hidden states, whether it is cached; values beyond the range of fp16
            become its largest.
        top_logits: how many of each token's largest logits are cached, as log-probabilities; None for all logits.
        temperature: T at which they are log-probabilities.
        classes: number of the teacher's outputs; needed with `top_logits`.
    """

    hidden_states: tuple[bool, ...] = ()
    top_logits: int | None = None
    temperature: float = 1.0
    classes: int = field(default=0, repr=False, compare=False)

    def __str__(self) -> str:
        """A part of the name of each cache file, which must not change."""
        return (
            f"KeptOutputs(hidden_states={self.hidden_states}, top_logits={self.top_logits}, "
            f"temperature={self.temperature})"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in a dataset."""
        if self.top_logits is not None:
            return (TEACHER_OUTPUTS,)
        return (TEACHER_LOGITS, TEACHER_OUTPUTS) if any(self.hidden_states) else (TEACHER_LOGITS,)

    def rows(self, outputs: TeacherBatch, attention_mask: Tensor | None) -> Rows:
        """The rows of each column, one for each example, without its padding.

        Args:
            outputs: all logits `[examples, (length,) classes]`, and `hidden_states`, for tokens
                `[examples, length, hidden]`.
            attention_mask: `[examples, length]`, 0 at padding; None where there is none.
        """
        tensors = {
            f"hidden_states.{index}": outputs.inner["hidden_states"][index].clamp(HALF.min, HALF.max).half()
            for index, is_cached in enumerate(self.hidden_states)
            if is_cached
        }
        columns: Rows = {}
        logits = outputs.logits.float()
        if self.top_logits is None:
            columns[TEACHER_LOGITS] = [*_rows(logits, attention_mask)]
        else:
            top, indices = (logits / self.temperature).log_softmax(-1).topk(self.top_logits, dim=-1)
            tensors |= {"top_log_probs": top.clamp(min=HALF.min).half(), "top_indices": indices.int()}
        if tensors:
            rows = {name: _rows(values, attention_mask) for name, values in tensors.items()}
            columns[TEACHER_OUTPUTS] = [
                packed(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)
            ]
        return columns

    def batch(self, columns: Mapping[str, Any]) -> TeacherBatch:
        """The teacher's outputs, from the columns of a batch; None in place of hidden states that are not cached."""
        cached = columns.get(TEACHER_OUTPUTS, {})
        inner: dict[str, Any] = {}
        if any(self.hidden_states):
            names = [f"hidden_states.{index}" for index in range(len(self.hidden_states))]
            inner["hidden_states"] = tuple(cached.get(name) for name in names)
        if self.top_logits is None:
            return TeacherBatch(columns[TEACHER_LOGITS], inner=inner)
        top_k = TopLogits(cached["top_log_probs"], cached["top_indices"], self.classes, self.temperature)
        return TeacherBatch(None, top_k, inner)


def _rows(values: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """A tensor of its own for each example, since a view would be sent to other ranks with its whole batch."""
    if attention_mask is None or values.dim() < 3:
        return [row.clone() for row in values.cpu()]
    return [row[mask.bool()].cpu() for row, mask in zip(values, attention_mask, strict=True)]
