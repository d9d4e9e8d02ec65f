"""How much the teacher's outputs tell: nothing if they are the same for every class."""

from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import IGNORED, sum_over_chunks
from hf_kd_lambda.losses.functional.distributions import squared_distance_from_uniform

ENOUGH = 0.1
"""Mean squared distance of the teacher from the uniform distribution, from which on its gradient counts in full."""


@torch.no_grad()
def count_signal(teacher: TeacherBatch, labels: Tensor) -> Tensor:
    """`(2,)`: the sum of the teacher's squared distances from the uniform distribution, and the number of items.

    Args:
        teacher: its outputs for a batch. One output, of a regression, is always taken to tell something.
        labels: `[examples, (length)]`, -100 where there is no item.
    """

    def count(*teacher_and_labels: Tensor) -> Tensor:
        *chunk, chunk_labels = teacher_and_labels
        items = chunk_labels.ne(IGNORED)
        distance = squared_distance_from_uniform(teacher.logits_of(*chunk).float())
        return torch.stack([torch.where(items, distance, 0.0).sum(), items.sum()])

    return sum_over_chunks(count, teacher.chunked, labels)


class TeacherSignal:
    """How much the teacher's outputs told so far, over all items.

    With nearly equal logits for all classes the KD gradient is tiny, so that √(a/b) makes λ large, though the gradient
    carries no information. The factor takes that back: such a teacher is given no weight.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(2)

    @property
    def factor(self) -> Tensor:
        """min(1, d/`ENOUGH`), a scalar, with d the mean squared distance from uniform; 1 before any item."""
        distance, items = self.sums
        return torch.where(items > 0, distance / items.clamp(min=1) / ENOUGH, 1.0).clamp(max=1.0)

    def update(self, sums: Tensor) -> None:
        """Take in what `count_signal` returned, summed over micro-batches and ranks."""
        self.to(sums.device)
        self.sums = torch.where(sums.isfinite().all(), self.sums + sums, self.sums)

    def to(self, device: torch.device) -> None:
        """Move the state."""
        self.sums = self.sums.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON numbers, which hold an fp32 exactly."""
        return {"sums": self.sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.sums = torch.tensor(state["sums"])
