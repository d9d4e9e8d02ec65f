"""How the KD loss is made up of several, where each has a λ of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.balancing.moving_average import MovingAverage
from hf_kd_lambda.balancing.rules.several_losses import equal_lengths, min_norm


class KDSplit:
    """Weights of several KD losses in their sum, set from the averaged Gram matrix of all gradients.

    λ weighs the sum as it weighs a single KD loss, so that each loss's own λ is λ times its weight here.

    Attributes:
        weights: `[losses]`.

    Args:
        weights: of the settings: in force before the first measurement, and the ratio of the lengths that the KD
            gradients then are given; MGDA makes nothing of them.
        decay: of the moving average, in [0, 1).
        mgda: take the weights of the shortest combination instead of those of equal lengths.
    """

    def __init__(self, weights: Sequence[float], decay: float, mgda: bool) -> None:
        self.given = torch.tensor(list(weights), dtype=torch.float32)
        self.weights = self.given.clone()
        self.mgda = mgda
        self.grams = MovingAverage(1, (len(weights) + 1,) * 2, decay)

    def update(self, gram: Tensor) -> None:
        """Take in the Gram matrix `[1 + losses, 1 + losses]` of a step, the task's gradient first.

        One that is not finite, or of a KD gradient that vanishes, is ignored.
        """
        norms = gram.diagonal()[1:]
        if not (gram.isfinite().all() and (norms > torch.finfo(gram.dtype).tiny).all()):
            return
        self.grams.update(gram.unsqueeze(0), torch.ones_like(gram, dtype=torch.bool))
        (mean,) = self.grams.value
        self.weights = min_norm(mean) if self.mgda else equal_lengths(mean, self.given)

    def to(self, device: torch.device) -> None:
        """Move the state."""
        self.given, self.weights = self.given.to(device), self.weights.to(device)
        self.grams.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON numbers, which hold an fp32 exactly."""
        return {"weights": self.weights.tolist(), "grams": self.grams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.weights = torch.tensor(state["weights"])
        self.grams.load_state_dict(state["grams"])
