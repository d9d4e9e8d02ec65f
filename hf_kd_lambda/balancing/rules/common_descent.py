"""Rules of multi-objective optimization that search a direction along which both losses decrease."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_kd_lambda.balancing.rules.base import Rule, Weights, conditioned, require, rounding, tiny
from hf_kd_lambda.gradients.gram import Gram


def squared_difference(gram: Gram) -> Tensor:
    """A = |g_task − g_kd|² = a + b − 2c of a conditioned Gram matrix, positive and at least its rounding error."""
    a, b, c = gram
    return torch.maximum(a + b - 2 * c, rounding(c) * (a + b)) + 2 * tiny(c)


def min_norm_share(gram: Gram) -> Tensor:
    """The unbounded x that minimizes |x·g_task + (1 − x)·g_kd|: (b − c)/A; ½ if both gradients are equal.

    It is ½ + (b − a)/2A. If A is only rounding error, the lower bound of A replaces it. So x stays near ½ for every c
    while a and b differ only by rounding, and it is continuous there.
    """
    a, b, c = gram
    difference = squared_difference(gram)
    missing = difference - (a + b - 2 * c)  # 0 unless the gradients are nearly equal
    return (b - c + missing / 2) / difference


@dataclass(frozen=True)
class MGDA(Rule):
    """MGDA: the shortest convex combination of both gradients (Désidéri 2012; Sener & Koltun 2018, Algorithm 1).

    For equal gradients all combinations have the same length, and both weights are ½.
    """

    splits_kd: ClassVar[bool] = True

    def weights(self, gram: Gram) -> Weights:
        """w_task = min(max((b − c)/A, 0), 1), w_kd = 1 − w_task, A = a + b − 2c."""
        task = min_norm_share(conditioned(gram)).clamp(0.0, 1.0)
        return Weights(task, 1 - task)


@dataclass(frozen=True)
class PCGrad(Rule):
    """PCGrad: removes from each gradient its conflict with the other, and adds both (Yu et al. 2020, Algorithm 1)."""

    def weights(self, gram: Gram) -> Weights:
        """(1 + m/a, 1 + m/b), m = max(0, −c)."""
        a, b, c = conditioned(gram)
        conflict = (-c).clamp(min=0.0)
        return Weights(1 + conflict / a, 1 + conflict / b)


@dataclass(frozen=True)
class UPGrad(Rule):
    """UPGrad: projects both gradients onto the cone in which neither loss increases, and averages them.

    Quinton & Rey 2024 (Jacobian descent). For two losses it is half of PCGrad's update.
    """

    def weights(self, gram: Gram) -> Weights:
        """½(1 + m/a, 1 + m/b), m = max(0, −c)."""
        task, kd = PCGrad().weights(gram)
        return Weights(task / 2, kd / 2)


@dataclass(frozen=True)
class DualProj(Rule):
    """DualProj: projects the mean gradient onto the cone in which neither loss increases.

    Lopez-Paz & Ranzato 2017, eq. 11 (gradient episodic memory).
    """

    def weights(self, gram: Gram) -> Weights:
        """(max(½, −c/2a), max(½, −c/2b))."""
        a, b, c = conditioned(gram)
        return Weights((-c / (2 * a)).clamp(min=0.5), (-c / (2 * b)).clamp(min=0.5))


@dataclass(frozen=True)
class CAGrad(Rule):
    """CAGrad: the best update for the worse loss, near the mean gradient (Liu et al. 2021, Algorithm 1).

    The update lies in a ball of radius C·|g_0| around the mean g_0. It is g_0 + C|g_0|·g_x/|g_x|, where
    g_x = x·g_task + (1 − x)·g_kd minimizes <g_x, g_0> + C|g_0||g_x|. At C = 0 it is g_0; a larger C favours the worse
    loss.

    If both gradients cancel in g_x, its length is bounded below by its rounding error.

    Args:
        radius: C, the paper's c. The default is the paper's value for NYU-v2.

    Raises:
        ValueError: `radius` is not in [0, 1).
    """

    radius: float = 0.4

    def __post_init__(self) -> None:
        require(0 <= self.radius < 1, "radius", self.radius, "lie in [0, 1)")

    def weights(self, gram: Gram) -> Weights:
        """½ + (C|g_0|/|g_x|)·(x, 1 − x)."""
        gram = conditioned(gram)
        a, b, c = gram
        s = self.radius / 2 * (a + b + 2 * c).clamp(min=0.0).sqrt()  # C|g_0|
        x = self._share(gram, s)
        squared_length = x**2 * a + (1 - x) ** 2 * b + 2 * x * (1 - x) * c  # |g_x|²
        step = s / squared_length.clamp(min=torch.finfo(c.dtype).eps).sqrt()
        return Weights(0.5 + step * x, 0.5 + step * (1 - x))

    @staticmethod
    def _share(gram: Gram, s: Tensor) -> Tensor:
        """The minimizing x, with s = C|g_0|, A = a + b − 2c, D = (ab − c²)/A (the smallest |g_x|²) and q = (b − a)/2.

        If s²A > q², it is the minimum over all x, (b − c)/A + q√D/√(A(s²A − q²)), clipped to [0, 1]. Otherwise the sum
        is monotonic, and x is the end at which it is smaller.
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
    """Aligned-MTL: makes both gradients orthogonal and as long as the shorter principal axis (Senushkin et al. 2023).

    Algorithm 1 with equal preferences: w = √μ_min·G^(−1/2)·(½, ½), where μ_min and μ_max are the eigenvalues of the
    Gram matrix G. Parallel gradients have a single axis, so there is nothing to align, and both weights are ½.

    A weight is negative if its gradient is much longer than the other and has nearly the same direction.
    """

    def weights(self, gram: Gram) -> Weights:
        """(b + δ − c, a + δ − c)/(2(μ_max + δ)), δ = √(ab − c²) = √(μ_min·μ_max)."""
        a, b, c = conditioned(gram)
        largest_dot = a.sqrt() * b.sqrt()
        delta = (largest_dot - c.abs()).sqrt() * (largest_dot + c.abs()).sqrt()
        largest = (a + b) / 2 + torch.hypot((a - b) / 2, c)
        scale = 1 / (2 * (largest + delta))
        one_direction = largest_dot - c <= rounding(c) * largest_dot
        task, kd = scale * (b + delta - c), scale * (a + delta - c)
        return Weights(torch.where(one_direction, 0.5, task), torch.where(one_direction, 0.5, kd))
