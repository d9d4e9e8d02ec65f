"""Base class of votes and trust: sums over the items of the first pass over the data, in which older items fade."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import ItemWeights

TINY = torch.finfo(torch.float32).tiny


class Judge(ABC):
    """Judges label and teacher by sums over items that the student has not been trained on yet.

    Older items fade, because the student's outputs improve: after N items, item n has the weight (n/N)^`fading`. So
    the memory grows with the run. A fixed half-life would need different values for 10 items per step and for 10,000
    (tokens).

    Only the first pass over the data counts. After it, the student remembers the label and the teacher's output of
    every example. Holding out a fold that changes with the epoch would not help: from the second pass on, every fold
    has been trained on. A fold that is never trained on would help, but costs its examples and another forward.

    The state consists of tensors on the device of the logits, so an update never synchronizes. Sums are additive over
    micro-batches and ranks.

    Attributes:
        sums: `[size]`.
        seen: number of items so far, a scalar.
        closed: whether the student has been trained on all examples, so that counting has ended.

    Args:
        size: number of sums.
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
        """Per-item weights of both losses, and the micro-batch's counts for `update`.

        Args:
            student_logits: `[examples, (length,) classes]`, before the step.
            teacher: teacher outputs for the same micro-batch, at temperature 1.
            items: labels `[examples, (length)]` of both losses.

        Returns:
            The weights, and counts `[size]`; None instead of counts if there is nothing to count.
        """

    @abstractmethod
    def num_items(self, counts: Tensor) -> Tensor:
        """The number of items in the counts, a scalar."""

    @property
    def evaluation_weights(self) -> Tensor | None:
        """Weights of several teachers in the soft targets of items that are not judged, `[teachers]`; else None."""
        return None

    @property
    @abstractmethod
    def rule_inputs(self) -> dict[str, Tensor]:
        """Inputs for a rule, by their names in `Rule.needs`."""

    @property
    @abstractmethod
    def logs(self) -> dict[str, Tensor]:
        """Scalars to log, by name."""

    def update(self, counts: Tensor) -> None:
        """Add the counts of one step. Ignored if the sums would not be finite, or after the first pass over the data.

        Args:
            counts: `[size]`, summed over micro-batches and ranks.
        """
        if self.closed:
            return
        self.to(counts.device)
        seen = self.seen + self.num_items(counts)
        # From weights (n/N)^fading to (n/N')^fading, with N items before this step and N' after it.
        fade = (self.seen / seen.clamp(min=TINY)) ** self.fading
        sums = fade * self.sums + counts
        usable = sums.isfinite().all()
        self.sums = torch.where(usable, sums, self.sums)
        self.seen = torch.where(usable, seen, self.seen)

    def to(self, device: torch.device) -> None:
        """Move the state to the device of the logits."""
        self.sums, self.seen = self.sums.to(device), self.seen.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values; JSON numbers represent fp32 exactly."""
        values = (self.sums.tolist(), self.seen.item())
        return {**dict(zip(self.saved_as, values, strict=True)), "closed": self.closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            ValueError: it has another number of sums.
        """
        sums, seen = (torch.tensor(state[name]) for name in self.saved_as)
        if sums.shape != self.sums.shape:
            raise ValueError(
                f"λ's state in the checkpoint has {len(sums)} sums of label and teacher, and that of this run "
                f"{len(self.sums)}: resume with the classes and the hf-kd-lambda of then, or train from the start."
            )
        self.sums, self.seen, self.closed = sums, seen, state["closed"]
