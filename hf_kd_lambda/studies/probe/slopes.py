"""The Gram matrix measured by an optimizer's real steps, and how well metrics predict it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from hf_kd_lambda.studies.probe.steps import Gradients, Losses, measure
from hf_kd_lambda.studies.probe.updates import gram_of

PERTURBATION = 0.05  # of w_task + w_kd: the step of the central differences


@dataclass(frozen=True)
class Slopes:
    """−∂ΔL_i/∂w_j per unit of learning rate around the run's weights: for SGD, the Gram matrix.

    Other parts of an update, such as momentum, do not depend on the weights and are not in the slopes.

    Attributes:
        measured: `[2, 2]`.
        products: `Update.products` for each metric, `[2, 3]`.
    """

    measured: Tensor
    products: Mapping[str, Tensor]

    def error(self, metric: str) -> float:
        """|k·predicted − measured|/|measured| with the best factor k; rules for λ do not depend on k."""
        predicted = self.products[metric][:, 1:]
        factor = (predicted * self.measured).sum() / predicted.square().sum()
        return ((factor * predicted - self.measured).norm() / self.measured.norm()).item()

    def ratio_error(self, metric: str) -> float:
        """The factor, at least 1, by which the predicted √(a/b) is too large or too small."""
        predicted, measured = (gram_of(products) for products in (self.products[metric], self.measured))
        squared = (predicted.task / predicted.kd) / (measured.task / measured.kd)
        return squared.log().abs().div(2).exp().item()

    def cosine_error(self, metric: str) -> float:
        """|predicted − measured| cosine."""
        return (gram_of(self.products[metric]).cosine - gram_of(self.measured).cosine).abs().item()


def measure_slopes(
    losses: Losses,
    optimizer: Optimizer,
    gradients: Gradients,
    products: Mapping[str, Tensor],
    learning_rate: float,
    weights: tuple[float, float],
) -> Slopes:
    """Take four steps with weights close to the run's, and return slopes with their predictions.

    Args:
        losses, optimizer, gradients: as `measure` takes them.
        products: inner products of the predicted updates, by metric.
        learning_rate: so small that the curvature of the losses has no effect.
        weights: (w_task, w_kd) of the run.
    """
    step = PERTURBATION * sum(weights)
    around = torch.tensor(weights, dtype=torch.double) + step * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])
    changes = measure(losses, optimizer, gradients, around, [learning_rate])[0]
    return Slopes(-(changes[:, ::2] - changes[:, 1::2]) / (2 * step * learning_rate), products)
