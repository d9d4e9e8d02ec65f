"""A debiased exponential moving average of tensors."""

from typing import Any

import torch
from torch import Tensor


class MovingAverage:
    """Σ (1−β)·β^(n−i)·x_i / (1−βⁿ) after n values: debiased like Adam's moments (Kingma & Ba 2015, section 3).

    Args:
        rows, shape: a value is a tensor `[rows, *shape]`. An update may skip single positions of `shape`.
        decay: β in [0, 1).
    """

    def __init__(self, rows: int, shape: tuple[int, ...], decay: float) -> None:
        self.decay = decay
        self.sums = torch.zeros(rows, *shape)
        self.weight = torch.zeros(shape)

    @property
    def is_empty(self) -> Tensor:
        """Booleans `[*shape]`: whether there has been no value yet."""
        return self.weight == 0

    @property
    def value(self) -> Tensor:
        """The average, `[rows, *shape]`; NaN where it is empty."""
        return self.sums / self.weight

    def update(self, value: Tensor, usable: Tensor) -> None:
        """Add a value `[rows, *shape]` where the booleans `usable`, `[*shape]`, are true."""
        # torch.where, not a product with `usable`: 0 times a non-finite value is NaN.
        self.sums = torch.where(usable, self.decay * self.sums + (1 - self.decay) * value, self.sums)
        self.weight = torch.where(usable, self.decay * self.weight + (1 - self.decay), self.weight)

    def to(self, device: torch.device) -> None:
        """Move the state to `device`."""
        self.sums, self.weight = self.sums.to(device), self.weight.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON numbers, which represent fp32 exactly."""
        return {"sums": self.sums.tolist(), "weight": self.weight.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self.sums, self.weight = torch.tensor(state["sums"]), torch.tensor(state["weight"])
