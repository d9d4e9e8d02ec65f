"""Weights of several KD losses in their sum, if every KD loss has its own λ."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.balancing.moving_average import MovingAverage
from hf_kd_lambda.balancing.rules.several_losses import equal_lengths, min_norm


class KDSplit:
    """Weights of several KD losses in their sum, set from the averaged Gram matrix of all gradients.

    λ is the weight of the sum, so the λ of a single KD loss is λ times its weight here.

    Attributes:
        weights: the current weights, `[losses]`.

    Args:
        weights: the configured weights. They are used before the first measurement. Afterwards they set the ratio of
            the lengths of the weighted KD gradients; MGDA ignores them.
        decay: decay of the moving average, in [0, 1).
        mgda: use the weights of the shortest combination (MGDA) instead of length ratios.
    """

    def __init__(self, weights: Sequence[float], decay: float, mgda: bool) -> None:
        self.configured = torch.tensor(list(weights), dtype=torch.float32)
        self.weights = self.configured.clone()
        self.mgda = mgda
        self.grams = MovingAverage(1, (len(weights) + 1,) * 2, decay)

    def update(self, gram: Tensor) -> Tensor:
        """Set the weights from the Gram matrix `[1 + losses, 1 + losses]` of a step, the task gradient first.

        Ignored if the matrix is not finite or a KD gradient vanishes.

        Returns:
            `weights`.
        """
        norms = gram.diagonal()[1:]
        if gram.isfinite().all() and (norms > torch.finfo(gram.dtype).tiny).all():
            self.grams.update(gram.unsqueeze(0), torch.ones_like(gram, dtype=torch.bool))
            (mean,) = self.grams.value
            self.weights = min_norm(mean) if self.mgda else equal_lengths(mean, self.configured)
        return self.weights

    def to(self, device: torch.device) -> None:
        """Move the state to `device`."""
        self.configured, self.weights = self.configured.to(device), self.weights.to(device)
        self.grams.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON numbers, which represent fp32 exactly."""
        return {"weights": self.weights.tolist(), "grams": self.grams.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        self.weights = torch.tensor(state["weights"])
        self.grams.load_state_dict(state["grams"])
