"""λ over the course of a run: moving averages of the Gram matrix, bounds, and what a checkpoint keeps of them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hf_kd_lambda.gram import Gram

SMALLEST = torch.finfo(torch.float32).tiny  # a squared norm below it has lost digits, and its average may vanish


class LambdaState:
    """Smooths the measured Gram matrices, applies a rule to them and bounds what comes out.

    A single batch's Gram matrix is noisy, so that a, b and c are averaged (not λ, whose average would be biased by the
    ratio's skew): after n measurements the average of x is Σ (1−β)·β^(n−i)·x_i / (1−βⁿ), debiased as Adam's moments
    are (Kingma & Ba 2015, section 3), so that the first measurement counts in full.

    All state is scalar tensors on the gradients' device, so that updating it waits for nothing.

    Args:
        rule: maps a Gram matrix to λ.
        initial: λ before the first measurement.
        decay: β in [0, 1).
        bounds: smallest and largest λ.
        max_change: bound on |Δ log λ| between measurements; the first one is not bound by it.
    """

    def __init__(
        self,
        rule: Callable[[Gram], Tensor],
        initial: float,
        decay: float,
        bounds: tuple[float, float],
        max_change: float,
    ) -> None:
        self.rule = rule
        self.decay = decay
        self.bounds = bounds
        self.max_factor = math.exp(max_change)
        self.lambda_ = torch.tensor(initial, dtype=torch.float32).clamp(*bounds)
        self.sums = torch.zeros(3)
        self.weight = torch.zeros(())
        self.skipped = torch.zeros((), dtype=torch.int32)

    def update(self, measured: Gram) -> None:
        """Take in one measurement. A non-finite one is counted and otherwise ignored, as is a vanishing gradient."""
        self.to(measured.task.device)
        finite = measured.is_finite()
        usable = finite & (measured.task > SMALLEST) & (measured.kd > SMALLEST)
        self.skipped += ~finite

        first = self.weight == 0
        # torch.where, not a product with `usable`: 0 times a non-finite measurement would be NaN.
        self.sums = torch.where(usable, self.decay * self.sums + (1 - self.decay) * torch.stack(measured), self.sums)
        self.weight = torch.where(usable, self.decay * self.weight + (1 - self.decay), self.weight)

        proposed = self.rule(Gram(*(self.sums / self.weight)))
        low, high = self.lambda_ / self.max_factor, self.lambda_ * self.max_factor
        bounded = torch.where(first, proposed, torch.minimum(torch.maximum(proposed, low), high)).clamp(*self.bounds)
        self.lambda_ = torch.where(usable, bounded, self.lambda_)

    def to(self, device: torch.device) -> None:
        """Move the state to the device of the gradients."""
        for name in ("lambda_", "sums", "weight", "skipped"):
            setattr(self, name, getattr(self, name).to(device))

    def state_dict(self) -> dict[str, float | int | list[float]]:
        """The state as JSON numbers, which hold an fp32 exactly."""
        return {
            "lambda": self.lambda_.item(),
            "gram_sums": self.sums.tolist(),
            "gram_weight": self.weight.item(),
            "skipped": int(self.skipped.item()),
        }

    def load_state_dict(self, state: dict[str, float | int | list[float]]) -> None:
        """Take over what `state_dict` returned."""
        self.lambda_ = torch.tensor(state["lambda"])
        self.sums = torch.tensor(state["gram_sums"])
        self.weight = torch.tensor(state["gram_weight"])
        self.skipped = torch.tensor(state["skipped"], dtype=torch.int32)
