"""What a KD loss is, and what it is computed from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from hf_kd_lambda.losses.functional.spans import logits_of_items

HALF_TINY = torch.finfo(torch.half).tiny
PROJECTED = "projected_states"
"""Name of the outputs that are the student's hidden states, those projected that have a projection."""


class TopLogits(NamedTuple):
    """The teacher's k largest logits of each token, as log-probabilities."""

    log_probs: Tensor
    """`[examples, length, k]`, at `temperature`."""
    indices: Tensor
    """`[examples, length, k]`: which tokens of the vocabulary they belong to."""
    classes: int
    """Size of the vocabulary."""
    temperature: float

    @property
    def logits(self) -> Tensor:
        """All logits, `[..., classes]`: the probability that the k largest leave is spread evenly.

        Enough for choices and probabilities. As a target it would teach that the rest is even.
        """
        top, indices = self.log_probs.float(), self.indices.long()
        rest = (1 - top.exp().sum(-1, keepdim=True)).clamp(min=HALF_TINY) / max(self.classes - top.shape[-1], 1)
        return self.temperature * rest.log().expand(*top.shape[:-1], self.classes).scatter(-1, indices, top)


class TeacherBatch(NamedTuple):
    """The teacher's outputs for one batch, without gradient, whether computed now or read from a cache."""

    all_logits: Tensor | None
    """`[examples, (length,) classes]`; None where only the largest are cached."""
    top_k: TopLogits | None = None
    """The largest logits; None where all are known."""
    inner: Mapping[str, Any] = MappingProxyType({})
    """Outputs other than logits that a KD loss needs, by name: `hidden_states`, `attentions`, `value_vectors`…"""

    @property
    def logits(self) -> Tensor:
        """All logits, `[examples, (length,) classes]`; estimated where only the largest are cached."""
        return self.logits_of(*self.chunked)

    def of_items(self, batch: Mapping[str, Any]) -> "TeacherBatch":
        """The same with logits of items, see `logits_of_items`."""
        logits = self.all_logits
        return self if logits is None else self._replace(all_logits=logits_of_items(logits, batch))

    @property
    def chunked(self) -> tuple[Tensor, ...]:
        """The tensors that hold the logits, each of which can be split along its items."""
        if self.top_k is not None:
            return self.top_k.log_probs, self.top_k.indices
        return (cast(Tensor, self.all_logits),)

    def logits_of(self, *chunk: Tensor) -> Tensor:
        """All logits of the same chunk of each tensor in `chunked`."""
        if self.top_k is None:
            return chunk[0]
        log_probs, indices = chunk
        return self.top_k._replace(log_probs=log_probs, indices=indices).logits


class LossInputs(NamedTuple):
    """A batch as the KD losses see it."""

    student: Mapping[str, Any]
    """Outputs of the student by name: `logits`, and whatever else a KD loss needs."""
    teacher: TeacherBatch
    attention_mask: Tensor | None
    """`[examples, length]`, 0 at padding; None where there is no padding, or where inputs are no tokens."""
    labels: Tensor
    """`[examples]` or `[examples, length]`: -100 where there is no item."""
    num_items: Tensor | int
    """What sums over items are divided by."""
    temperature: float
    weights: Tensor | None = None
    """Of the items, of the labels' shape; None for 1."""


@dataclass(frozen=True)
class KDLoss(ABC):
    """A KD loss with its hyper-parameters: a frozen dataclass.

    Attributes:
        needs: outputs of both models beside the logits.
        projects: whether the layers that it compares must be of the same width.
        uses_labels: whether it needs a class for each item. Where there is no label, the teacher's class is taken.

    Args:
        weight: in the sum of all KD losses, > 0.

    Raises:
        ValueError: a hyper-parameter is out of its range.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    projects: ClassVar[bool] = False
    uses_labels: ClassVar[bool] = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight={self.weight} must be a positive finite number.")

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss without its weight, a scalar in fp32.

        Raises:
            ValueError: student and teacher do not fit each other.
        """

    def pairs(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Which layers of student and teacher are compared: indices of what `needs` names; none by default.

        Raises:
            ValueError: there are no such layers.
        """
        return []
