"""Steps for many λ and learning rates from one point of a run, and how well the gradients predict them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from hf_kd_lambda.studies.probe.steps import Gradients, Losses, measure

R_SQUARED, CURVATURE = 0.999, 0.05  # a prediction holds with at least this R² and at most this error of its λ² term


class Fit(NamedTuple):
    """Parabolas through points."""

    coefficients: Tensor
    """Coefficients of 1, λ and λ², `[..., 3]`."""
    r_squared: Tensor
    """The explained share of the variance, `[...]`."""


def fit_parabola(lambdas: Tensor, values: Tensor) -> Fit:
    """Least squares of c_0 + c_1·λ + c_2·λ² through `values`, `[..., λ's]`."""
    powers = torch.linalg.vander(lambdas, N=3)
    solution = torch.linalg.lstsq(powers, values.reshape(-1, len(lambdas)).T).solution
    coefficients = solution.T.reshape(*values.shape[:-1], 3)
    residuals = values - coefficients @ powers.T
    deviations = values - values.mean(-1, keepdim=True)
    return Fit(coefficients, 1 - residuals.square().sum(-1) / deviations.square().sum(-1))


@dataclass(frozen=True)
class Sweep:
    """Measured changes from one point with one optimizer, and predictions by metric.

    Attributes:
        losses: task loss and KD loss at the point.
        weights: (w_task, w_kd) of the run there. Steps along λ were taken with the weights (w_task, λ·w_task).
        learning_rates: ascending.
        lambdas: `[λ's]`.
        changes: ΔL_task, ΔL_kd and Δ(L_task + λ·L_kd), `[rates, 3, λ's]`.
        products: `Update.products` for each metric, `[2, 3]`.
    """

    losses: tuple[float, float]
    weights: tuple[float, float]
    learning_rates: list[float]
    lambdas: Tensor
    changes: Tensor
    products: dict[str, Tensor]

    def fit(self) -> Fit:
        """Parabolas through the measured changes: coefficients `[rates, 3, 3]` and R² `[rates, 3]`."""
        return fit_parabola(self.lambdas, self.changes)

    def coefficients(self, metric: str) -> Tensor:
        """Predicted coefficients of 1, λ and λ² of the three changes per unit of learning rate, `[3, 3]`."""
        constant, task, kd = self.products[metric].T
        start, slope = constant + self.weights[0] * task, self.weights[0] * kd
        zero = torch.zeros_like(start[0])
        of_task, of_kd = torch.stack([start, slope, zero.expand(2)], dim=-1)
        of_total = torch.stack([start[0], slope[0] + start[1], slope[1]])
        return -torch.stack([of_task, of_kd, of_total])

    def predicted(self, metric: str, scaled: bool = False) -> Tensor:
        """The three predicted changes, `[rates, 3, λ's]`.

        Args:
            metric: metric of the prediction.
            scaled: whether to fit a factor to the measured ΔL_task and ΔL_kd at each rate. Rules for λ do not depend
                on this factor.
        """
        rates = torch.tensor(self.learning_rates, dtype=self.changes.dtype)[:, None, None]
        predicted = rates * (self.coefficients(metric) @ torch.linalg.vander(self.lambdas, N=3).T)
        if not scaled:
            return predicted
        both = predicted[:, :2]
        factor = (both * self.changes[:, :2]).sum((1, 2)) / both.square().sum((1, 2))
        return factor[:, None, None] * predicted

    def change_errors(self, metric: str, scaled: bool = False) -> Tensor:
        """|predicted − measured|/|measured| of ΔL_task and ΔL_kd over all λ, `[rates]`."""
        error = self.predicted(metric, scaled)[:, :2] - self.changes[:, :2]
        return error.norm(dim=(1, 2)) / self.changes[:, :2].norm(dim=(1, 2))

    def coefficient_errors(self, metric: str, scaled: bool = False) -> Tensor:
        """Errors of the predicted parabola of L_task + λ·L_kd, relative to the fitted one, `[rates, 3]`.

        The error of the middle coefficient c_1, which may be zero, is relative to 2√|c_0·c_2|.
        """
        measured = self.fit().coefficients[:, 2]
        predicted = fit_parabola(self.lambdas, self.predicted(metric, scaled)[:, 2]).coefficients
        size = measured.abs()
        size[:, 1] = 2 * (size[:, 0] * size[:, 2]).sqrt()
        return (predicted - measured).abs() / size

    def holds_up_to(self, metric: str) -> float | None:
        """The learning rate up to which the prediction holds; None if it does not hold at the smallest."""
        good = (self.fit().r_squared[:, 2] >= R_SQUARED) & (self.coefficient_errors(metric)[:, 2] <= CURVATURE)
        count = int(good.long().cumprod(0).sum())
        return self.learning_rates[count - 1] if count else None


def sweep(
    losses: Losses,
    optimizer: Optimizer,
    gradients: Gradients,
    products: Mapping[str, Tensor],
    lambdas: Tensor,
    learning_rates: Sequence[float],
    weights: tuple[float, float],
) -> Sweep:
    """Take the steps.

    Args:
        losses, optimizer, gradients: as `measure` takes them.
        products: `Update.products` of the predicted updates, by metric.
        lambdas: `[λ's]`, fp64.
        learning_rates: ascending.
        weights: (w_task, w_kd) of the run.
    """
    task_weight = weights[0]
    pairs = task_weight * torch.stack([torch.ones_like(lambdas), lambdas], dim=-1)
    changes = measure(losses, optimizer, gradients, pairs, learning_rates)
    total = changes[:, :1] + lambdas * changes[:, 1:]
    with torch.no_grad():
        now = losses().tolist()
    changes = torch.cat([changes, total], dim=1)
    return Sweep((now[0], now[1]), weights, list(learning_rates), lambdas, changes, dict(products))
