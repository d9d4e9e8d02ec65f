"""What of a teacher's outputs is kept with each example: logits, or the largest of them; hidden states."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.data.columns import TEACHER_LOGITS, TEACHER_OUTPUTS
from hf_kd_lambda.teacher.cache_file import Rows
from hf_kd_lambda.teacher.collator import packed

HALF = torch.finfo(torch.half)
OF_LOGITS = ("logits", "top_log_probs", "top_indices")


@dataclass(frozen=True)
class KeptOutputs:
    """What is kept, and what a batch of it is.

    All logits are kept in fp32, in the column `teacher_logits`: training on them is training on the teacher itself.
    The rest is kept in fp16, so that λ is as exact as that, about 1e-3; and as one safetensors an example in
    `teacher_outputs`, since Arrow's lists are slow to read.

    Of 32,000 logits a token takes 128 kB, of the 64 largest 384 bytes.

    Args:
        hidden_states: of each of the teacher's hidden states, whether it is kept; values beyond fp16 become its
            greatest.
        top_logits: how many of each token's largest logits are kept, as log-probabilities; None for all logits.
        temperature: T at which they are log-probabilities.
    """

    hidden_states: tuple[bool, ...] = ()
    top_logits: int | None = None
    temperature: float = 1.0

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names in a dataset."""
        if self.top_logits is not None:
            return (TEACHER_OUTPUTS,)
        return (TEACHER_LOGITS, TEACHER_OUTPUTS) if any(self.hidden_states) else (TEACHER_LOGITS,)

    def rows(self, outputs: Mapping[str, Any], attention_mask: Tensor | None) -> Rows:
        """Each column's rows, an example each, of its tokens alone.

        Args:
            outputs: `logits` `[examples, (length,) classes]`, and `hidden_states`, of tokens
                `[examples, length, hidden]`.
            attention_mask: `[examples, length]`, 0 at padding; None where there is none.
        """
        kept = {
            f"hidden_states.{index}": outputs["hidden_states"][index].clamp(HALF.min, HALF.max).half()
            for index, is_kept in enumerate(self.hidden_states)
            if is_kept
        }
        columns: Rows = {}
        if self.top_logits is None:
            columns[TEACHER_LOGITS] = [*_rows(outputs["logits"].float(), attention_mask)]
        else:
            log_probs = (outputs["logits"].float() / self.temperature).log_softmax(-1)
            top, indices = log_probs.topk(self.top_logits, dim=-1)
            kept |= {"top_log_probs": top.clamp(min=HALF.min).half(), "top_indices": indices.int()}
        if kept:
            rows = {name: _rows(values, attention_mask) for name, values in kept.items()}
            columns[TEACHER_OUTPUTS] = [
                packed(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)
            ]
        return columns

    def outputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The teacher's outputs, from the columns of a batch.

        Returns:
            `logits`, or `top_log_probs` and `top_indices` `[examples, length, k]`; and `hidden_states` with None in
            place of those that are not kept.
        """
        kept = batch.get(TEACHER_OUTPUTS, {})
        outputs = {name: value for name, value in kept.items() if name in OF_LOGITS}
        if TEACHER_LOGITS in batch:
            outputs["logits"] = batch[TEACHER_LOGITS]
        if any(self.hidden_states):
            names = [f"hidden_states.{index}" for index in range(len(self.hidden_states))]
            outputs["hidden_states"] = tuple(kept.get(name) for name in names)
        return outputs

    def logits(self, outputs: Mapping[str, Any], classes: int) -> Tensor:
        """All logits, `[..., classes]`; where only the largest are kept, what they leave is spread evenly.

        For choices and their probabilities. As a target it would teach that the rest is even.
        """
        if "logits" in outputs:
            return outputs["logits"]
        top, indices = outputs["top_log_probs"].float(), outputs["top_indices"].long()
        rest = (1 - top.exp().sum(-1, keepdim=True)).clamp(min=HALF.tiny) / max(classes - top.shape[-1], 1)
        return self.temperature * rest.log().expand(*top.shape[:-1], classes).scatter(-1, indices, top)


def _rows(values: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
    """A tensor of its own for each example, since a view would be sent to other ranks with its whole batch."""
    if attention_mask is None or values.dim() < 3:
        return [row.clone() for row in values.cpu()]
    return [row[mask.bool()].cpu() for row, mask in zip(values, attention_mask, strict=True)]
