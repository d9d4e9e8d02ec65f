"""What judges label and teacher on the items of the first pass: sums over them, of which the older ones fade."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import ItemWeights

TINY = torch.finfo(torch.float32).tiny


class Judge(ABC):
    """Sums over the items that the student has not been trained on yet.

    Older items fade, because the student gets better at judging. With n the items up to one of them and N all, it
    weighs (n/N)^`fading`. Such a memory grows with the run, and needs no half-life, which would have to be another one
    for 10 items per step than for 10,000 (tokens).

    Only the first pass over the data counts: of an example that it was trained on, the student remembers the label and
    the teacher. A fold that is left out and rotated with the epochs would not prolong it: from the second pass on,
    every fold has been trained on. Only one that is never trained on would, for examples lost and a forward pass more.

    All state is tensors on the logits' device, so that updating it waits for nothing. Sums are additive over
    micro-batches and ranks.

    Attributes:
        sums: `[size]`.
        seen: items so far, a scalar.
        closed: whether the student has been trained on all examples, so that nothing is counted any more.

    Args:
        size: of the sums.
    """

    fading: ClassVar[int]
    saved_as: ClassVar[tuple[str, str]] = ("sums", "seen")

    def __init__(self, size: int) -> None:
        self.sums = torch.zeros(size)
        self.seen = torch.zeros(())
        self.closed = False

    @abstractmethod
    def observe(
        self, student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels
    ) -> tuple[ItemWeights, Tensor | None]:
        """Weights of the items of a micro-batch in both losses, and what it contributes to `update`.

        Args:
            student_logits: `[examples, (length,) classes]`, before the step.
            teacher: its outputs for the same micro-batch, at temperature 1.
            items: labels `[examples, (length)]` of both losses.

        Returns:
            The weights, and counts `[size]`; None where there is nothing to count.
        """

    @staticmethod
    @abstractmethod
    def items(counts: Tensor) -> Tensor:
        """The number of items among the counts, a scalar."""

    @property
    @abstractmethod
    def needs(self) -> dict[str, Tensor]:
        """What a rule may ask for, by name."""

    @property
    @abstractmethod
    def logs(self) -> dict[str, Tensor]:
        """Scalars to log, by name."""

    def update(self, counts: Tensor) -> None:
        """Take in the counts of one step. Counts that are not finite are ignored, as are all after the first pass.

        Args:
            counts: `[size]`, summed over micro-batches and ranks.
        """
        if self.closed:
            return
        self.to(counts.device)
        usable = counts.isfinite().all()
        seen = self.seen + self.items(counts)
        kept = (self.seen / seen.clamp(min=TINY)) ** self.fading
        self.sums = torch.where(usable, kept * self.sums + counts, self.sums)
        self.seen = torch.where(usable, seen, self.seen)

    def to(self, device: torch.device) -> None:
        """Move the state to the device of the logits."""
        self.sums, self.seen = self.sums.to(device), self.seen.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values, whose numbers hold an fp32 exactly."""
        values = (self.sums.tolist(), self.seen.item())
        return {**dict(zip(self.saved_as, values, strict=True)), "closed": self.closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.sums, self.seen = (torch.tensor(state[name]) for name in self.saved_as)
        self.closed = state["closed"]
