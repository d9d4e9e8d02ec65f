"""How much information the teacher's outputs contain: none if all classes have the same probability."""

from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import IGNORED, sum_over_chunks
from hf_kd_lambda.losses.functional.chunked import chunk_positions
from hf_kd_lambda.losses.functional.distributions import squared_distance_from_uniform

ENOUGH = 0.1
"""Mean squared distance of the teacher from the uniform distribution above which λ is not reduced."""


@torch.no_grad()
def count_signal(teacher: TeacherBatch, labels: Tensor) -> Tensor:
    """`[2]`: sum of the teacher's squared distances from the uniform distribution, and number of items.

    Args:
        teacher: teacher outputs for a batch. For regression (one output), the distance is 1.
        labels: `[examples, (length)]`, -100 at positions that are not items.
    """

    def count(*teacher_and_labels: Tensor) -> Tensor:
        *chunk, chunk_labels = teacher_and_labels
        items = chunk_labels.ne(IGNORED)
        distance = squared_distance_from_uniform(teacher.logits_of(*chunk).float())
        return torch.stack([torch.where(items, distance, 0.0).sum(), items.sum()])

    return sum_over_chunks(count, teacher.chunked, labels, chunk_positions(teacher.classes))


class TeacherSignal:
    """Information in the teacher's outputs so far, over all items.

    If all logits are nearly equal, the KD gradient is tiny, and √(a/b) makes λ large although the gradient has no
    information. The factor corrects this: such a teacher gets no weight.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(2)

    @property
    def factor(self) -> Tensor:
        """min(1, d/`ENOUGH`), a scalar; d is the mean squared distance from uniform. 1 before the first item."""
        distance, items = self.sums
        return torch.where(items > 0, distance / items.clamp(min=1) / ENOUGH, 1.0).clamp(max=1.0)

    def update(self, sums: Tensor) -> None:
        """Add the result of `count_signal`, summed over micro-batches and ranks."""
        self.to(sums.device)
        self.sums = torch.where(sums.isfinite().all(), self.sums + sums, self.sums)

    def to(self, device: torch.device) -> None:
        """Move the state to `device`."""
        self.sums = self.sums.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON numbers, which represent fp32 exactly."""
        return {"sums": self.sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self.sums = torch.tensor(state["sums"])
