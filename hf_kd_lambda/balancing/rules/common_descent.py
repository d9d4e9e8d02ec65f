"""Rules of multi-objective optimization that look for a direction along which both losses fall."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_kd_lambda.balancing.rules.base import Rule, Weights, conditioned, require, rounding, tiny
from hf_kd_lambda.gradients.gram import Gram


def squared_difference(gram: Gram) -> Tensor:
    """A = |g_T − g_D|² = a + b − 2c of a conditioned Gram matrix, no less than its rounding error, always positive."""
    a, b, c = gram
    return torch.maximum(a + b - 2 * c, rounding(c) * (a + b)) + 2 * tiny(c)


def min_norm_share(gram: Gram) -> Tensor:
    """The x, of all numbers, that makes x·g_T + (1 − x)·g_D shortest: (b − c)/A; ½ where both gradients are equal.

    That is ½ + (b − a)/2A. Where A is mere rounding error, its bound takes its place, so that x stays near ½ while a
    and b are equal but for rounding, whatever c is, and leaves ½ without a jump.
    """
    a, b, c = gram
    difference = squared_difference(gram)
    missing = difference - (a + b - 2 * c)  # 0 unless the gradients are nearly equal
    return (b - c + missing / 2) / difference


@dataclass(frozen=True)
class MGDA(Rule):
    """MGDA: the shortest of all convex combinations (Désidéri 2012; Sener & Koltun 2018, Algorithm 1).

    Of equal gradients every combination is the shortest, and each weighs ½.
    """

    def weights(self, gram: Gram) -> Weights:
        """w_T = min(max((b − c)/A, 0), 1), w_D = 1 − w_T, A = a + b − 2c."""
        task = min_norm_share(conditioned(gram)).clamp(0.0, 1.0)
        return Weights(task, 1 - task)


@dataclass(frozen=True)
class PCGrad(Rule):
    """PCGrad: each gradient loses its part against the other, then both are added (Yu et al. 2020, Algorithm 1)."""

    def weights(self, gram: Gram) -> Weights:
        """(1 + m/a, 1 + m/b), m = max(0, −c)."""
        a, b, c = conditioned(gram)
        conflict = (-c).clamp(min=0.0)
        return Weights(1 + conflict / a, 1 + conflict / b)


@dataclass(frozen=True)
class UPGrad(Rule):
    """UPGrad: the mean of both gradients, each projected onto the cone in which neither loss rises.

    Quinton & Rey 2024 (Jacobian descent). For two losses that is half of PCGrad's update.
    """

    def weights(self, gram: Gram) -> Weights:
        """½(1 + m/a, 1 + m/b), m = max(0, −c)."""
        task, kd = PCGrad().weights(gram)
        return Weights(task / 2, kd / 2)


@dataclass(frozen=True)
class DualProj(Rule):
    """DualProj: the mean gradient, projected onto the cone in which neither loss rises.

    Lopez-Paz & Ranzato 2017, eq. 11 (gradient episodic memory).
    """

    def weights(self, gram: Gram) -> Weights:
        """(max(½, −c/2a), max(½, −c/2b))."""
        a, b, c = conditioned(gram)
        return Weights((-c / (2 * a)).clamp(min=0.5), (-c / (2 * b)).clamp(min=0.5))


@dataclass(frozen=True)
class CAGrad(Rule):
    """CAGrad: the best for the worse-off loss within a ball around the mean gradient (Liu et al. 2021, Algorithm 1).

    The ball's radius is C·|g_0|, g_0 the mean. The update is g_0 + C|g_0|·g_x/|g_x|, where g_x = x·g_T + (1 − x)·g_D
    minimizes <g_x, g_0> + C|g_0||g_x|. At C = 0 it is g_0; the larger C, the more the worse-off loss counts.

    Where both gradients cancel in g_x, its length is taken for no less than rounding makes it.

    Args:
        radius: the paper's c, here C, by default its value for NYU-v2.

    Raises:
        ValueError: `radius` is not in [0, 1).
    """

    radius: float = 0.4

    def __post_init__(self) -> None:
        require(0 <= self.radius < 1, "radius", self.radius, "lie in [0, 1)")

    def weights(self, gram: Gram) -> Weights:
        """½ + (s/|g_x|)·(x, 1 − x), s = C|g_0|."""
        gram = conditioned(gram)
        a, b, c = gram
        s = self.radius / 2 * (a + b + 2 * c).clamp(min=0.0).sqrt()
        x = self._share(gram, s)
        squared_length = x**2 * a + (1 - x) ** 2 * b + 2 * x * (1 - x) * c  # |g_x|²
        step = s / squared_length.clamp(min=torch.finfo(c.dtype).eps).sqrt()
        return Weights(0.5 + step * x, 0.5 + step * (1 - x))

    @staticmethod
    def _share(gram: Gram, s: Tensor) -> Tensor:
        """The minimizing x, with A = a + b − 2c, D = (ab − c²)/A (the least |g_x|²) and q = (b − a)/2.

        Where s²A > q², it is the minimum over all x, (b − c)/A + q√D/√(A(s²A − q²)), brought into [0, 1]; else the end
        towards which the sum keeps falling.
        """
        a, b, c = gram
        q = (b - a) / 2
        difference = squared_difference(gram)  # A
        largest_dot = a.sqrt() * b.sqrt()
        least = (largest_dot - c) * (largest_dot + c) / difference  # D
        slack = s**2 * difference - q**2
        stationary = min_norm_share(gram) + q * least.sqrt() / (difference * slack).clamp(min=tiny(c)).sqrt()
        return torch.where(slack > 0, stationary.clamp(0.0, 1.0), (1 + q.sign()) / 2)


@dataclass(frozen=True)
class AlignedMTL(Rule):
    """Aligned-MTL: gradients made orthogonal and of one length, the shorter principal axis's (Senushkin et al. 2023).

    Its Algorithm 1 with equal preferences: w = √λ_min·G^(−1/2)·(½, ½), λ_min and λ_max the eigenvalues of the Gram
    matrix G. Gradients of one direction have one axis, to which there is nothing to align: each weighs ½.

    A weight is negative where a gradient is much longer than the other and close to it in direction.
    """

    def weights(self, gram: Gram) -> Weights:
        """(b + δ − c, a + δ − c)/(2(λ_max + δ)), δ = √(ab − c²) = √(λ_min·λ_max)."""
        a, b, c = conditioned(gram)
        largest_dot = a.sqrt() * b.sqrt()
        delta = (largest_dot - c.abs()).sqrt() * (largest_dot + c.abs()).sqrt()
        lambda_max = (a + b) / 2 + torch.hypot((a - b) / 2, c)
        scale = 1 / (2 * (lambda_max + delta))
        one_direction = largest_dot - c <= rounding(c) * largest_dot
        task, kd = scale * (b + delta - c), scale * (a + delta - c)
        return Weights(torch.where(one_direction, 0.5, task), torch.where(one_direction, 0.5, kd))
