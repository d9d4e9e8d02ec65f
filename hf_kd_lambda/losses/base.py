"""Base class of the KD losses and their inputs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor

from hf_kd_lambda.losses.functional.spans import logits_of_items

HALF_TINY = torch.finfo(torch.half).tiny
PROJECTED = "projected_states"
"""Key of the student's hidden states after projection; layers without a projection are unchanged."""


class TopLogits(NamedTuple):
    """The teacher's k largest logits of each token, as log-probabilities."""

    log_probs: Tensor
    """`[examples, length, k]`, at `temperature`."""
    indices: Tensor
    """`[examples, length, k]`: their token ids."""
    classes: int
    """Size of the vocabulary."""
    temperature: float

    @property
    def logits(self) -> Tensor:
        """Estimated logits of all classes, `[..., classes]`, with the remaining probability spread evenly.

        Accurate enough for argmax and probabilities, but not as a KD target: the tail is not really uniform.
        """
        top, indices = self.log_probs.float(), self.indices.long()
        rest = (1 - top.exp().sum(-1, keepdim=True)).clamp(min=HALF_TINY) / max(self.classes - top.shape[-1], 1)
        return self.temperature * rest.log().expand(*top.shape[:-1], self.classes).scatter(-1, indices, top)


class TeacherBatch(NamedTuple):
    """The teacher's outputs for one batch, detached; computed by a forward or read from the cache."""

    all_logits: Tensor | None
    """`[examples, (length,) classes]`; None if only the top k are cached."""
    top_k: TopLogits | None = None
    """The k largest logits; None if `all_logits` is given."""
    inner: Mapping[str, Any] = MappingProxyType({})
    """Intermediate outputs that the KD losses need, by name, e.g. `hidden_states`, `attentions`, `value_vectors`…"""
    members: tuple[Tensor, ...] = ()
    """Logits of every one of several teachers, like `all_logits`, which is their mean; empty if not needed."""

    @property
    def classes(self) -> int:
        """Number of classes or tokens."""
        return self.top_k.classes if self.top_k is not None else cast(Tensor, self.all_logits).shape[-1]

    @property
    def logits(self) -> Tensor:
        """All logits, `[examples, (length,) classes]`; estimated if only the top k are cached."""
        return self.logits_of(*self.chunked)

    def of_items(self, batch: Mapping[str, Any]) -> "TeacherBatch":
        """A copy in which the logits are those of the items, see `logits_of_items`."""
        if self.all_logits is None:
            return self
        members = tuple(logits_of_items(logits, batch) for logits in self.members)
        return self._replace(all_logits=logits_of_items(self.all_logits, batch), members=members)

    def mixed(self, weights: Tensor | None) -> "TeacherBatch":
        """A copy whose logits are the weighted mean of those of all members; unchanged without members.

        Args:
            weights: `[..., teachers]` of every item, or `[teachers]`, which sum to 1; None to change nothing.
        """
        if weights is None or not self.members:
            return self
        pairs = zip(weights.unsqueeze(-2).unbind(-1), self.members, strict=True)
        # Where a weight is 0, a logit of −∞ is not excluded.
        mixed = sum(torch.where(weight > 0, weight * logits, 0.0) for weight, logits in pairs)
        return self._replace(all_logits=cast(Tensor, mixed))

    @property
    def chunked(self) -> tuple[Tensor, ...]:
        """The tensors that store the logits; all can be split along the item dimension."""
        if self.top_k is not None:
            return self.top_k.log_probs, self.top_k.indices
        return (cast(Tensor, self.all_logits),)

    @property
    def chunked_members(self) -> tuple[Tensor, ...]:
        """The tensors that store the logits of every teacher; see `chunked`."""
        return self.members or self.chunked

    def member_logits_of(self, *chunk: Tensor) -> tuple[Tensor, ...]:
        """Logits `[..., classes]` of every teacher in one chunk, given that chunk of all `chunked_members`."""
        return chunk if self.members else (self.logits_of(*chunk),)

    def logits_of(self, *chunk: Tensor) -> Tensor:
        """Logits `[..., classes]` of one chunk, given that chunk of every tensor in `chunked`."""
        if self.top_k is None:
            return chunk[0]
        log_probs, indices = chunk
        return self.top_k._replace(log_probs=log_probs, indices=indices).logits


class LossInputs(NamedTuple):
    """Inputs of a KD loss for one batch."""

    student: Mapping[str, Any]
    """Student outputs by name, `logits` and the intermediate outputs that the KD losses need."""
    teacher: TeacherBatch
    attention_mask: Tensor | None
    """`[examples, length]`, 0 at padding; None without padding or for inputs that are not tokens."""
    labels: Tensor
    """`[examples]` or `[examples, length]`; -100 at positions that are not items."""
    num_items: Tensor | int
    """Divisor of sums over items."""
    temperature: float
    weights: Tensor | None = None
    """Per-item weights, same shape as `labels`; None means 1."""


class _Kind(NamedTuple):
    """Values that a hyper-parameter of some type may have; a boolean is no number."""

    types: tuple[type[int] | type[float], ...]
    name: str


# By the name of the type: with `from __future__ import annotations`, a field's type is its name.
_KINDS = {"float": _Kind((int, float), "a finite number"), "int": _Kind((int,), "an integer")}


@dataclass(frozen=True)
class KDLoss(ABC):
    """A KD loss and its hyper-parameters, as a frozen dataclass.

    Attributes:
        needs: outputs of both models that it needs in addition to the logits.
        projects: whether it compares layers of equal width, so that the student's may need a projection.
        uses_labels: whether it needs a class for every item. For unlabelled items, the teacher's argmax is used.

    Args:
        weight: weight in the sum of KD losses, > 0.

    Raises:
        ValueError: a hyper-parameter is out of range.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    projects: ClassVar[bool] = False
    uses_labels: ClassVar[bool] = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Any = getattr(self, field.name)
            kind = _KINDS.get(getattr(field.type, "__name__", str(field.type)))
            if kind and (isinstance(value, bool) or not isinstance(value, kind.types) or not math.isfinite(value)):
                raise ValueError(f"{field.name}={value!r} must be {kind.name}.")
        if self.weight <= 0:
            raise ValueError(f"weight={self.weight} must be a positive number.")

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tensor:
        """The loss without its weight, a scalar in fp32.

        Raises:
            ValueError: the outputs of student and teacher cannot be compared.
        """

    def pairs(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Pairs (student layer, teacher layer) to compare: indices into the outputs in `needs`. Default: none.

        Raises:
            ValueError: a layer does not exist.
        """
        return []
