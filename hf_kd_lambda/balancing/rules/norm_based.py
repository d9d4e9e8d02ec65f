"""Rules based on gradient norms: λ is √(a/b), times a factor."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_kd_lambda.balancing.rules.base import Rule, Weights, clip_to_feasible, conditioned, require, tiny
from hf_kd_lambda.gradients.gram import Gram


def length_ratio(gram: Gram) -> Tensor:
    """√(a/b), the λ that makes both weighted gradients equally long; 1 if both vanish."""
    a, b, _ = conditioned(gram)
    return a.sqrt() / b.sqrt()


@dataclass(frozen=True)
class Scaled(Rule):
    """A rule with the factor κ, the target ratio of KD to task gradient norm.

    Args:
        kappa: κ, positive and finite.

    Raises:
        ValueError: `kappa` is not a positive finite number.
    """

    kappa: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.kappa < math.inf, "kappa", self.kappa, "be a positive finite number")


@dataclass(frozen=True)
class NormRatio(Scaled):
    """λ = κ√(a/b): the norms of the weighted task and KD gradient are in the ratio 1 : κ.

    At κ = 1, IMTL-G, Nash-MTL, ConFIG and GradNorm (α = 0) have the same ratio for two losses.
    """

    splits_kd: ClassVar[bool] = True

    def weights(self, gram: Gram) -> Weights:
        """(1, κ√(a/b))."""
        return Weights.additive(self.kappa * length_ratio(gram))


@dataclass(frozen=True)
class Adaptive(Scaled):
    """κ√(a/b), clipped to the interval in which neither loss increases to first order (from arXiv 2505.06270).

    At κ = 1 it is the geometric mean of the interval's ends, so clipping has no effect.
    """

    clips: ClassVar[bool] = True
    splits_kd: ClassVar[bool] = True

    def weights(self, gram: Gram) -> Weights:
        """(1, λ), λ = min(max(κ√(a/b), |c|/b), a/|c|) where c < 0."""
        return Weights.additive(clip_to_feasible(self.kappa * length_ratio(gram), gram))


@dataclass(frozen=True)
class IMTLG(Rule):
    """IMTL-G: the projections of the update onto both gradients have the same length (Liu et al. 2021).

    For two losses, <d, g_task>/|g_task| = <d, g_kd>/|g_kd| and w_task + w_kd = 1 have one solution.
    """

    def weights(self, gram: Gram) -> Weights:
        """(√b, √a)/(√a + √b)."""
        a, b, _ = conditioned(gram)
        task, kd = a.sqrt(), b.sqrt()
        return Weights(kd / (task + kd), task / (task + kd))


@dataclass(frozen=True)
class Nash(Rule):
    """Nash-MTL: the update that solves Nash's bargaining game between the losses (Navon et al. 2022, Algorithm 1).

    The weights solve G·w = 1/w, where G is the Gram matrix. For opposite gradients there is no solution: as they
    approach opposite directions, the weights grow at a constant ratio, bounded by the rounding error.
    """

    def weights(self, gram: Gram) -> Weights:
        """(1/√a, 1/√b)/√(1 + cos)."""
        a, b, c = conditioned(gram)
        cosine = c / (a.sqrt() * b.sqrt())
        agreement = (1 + cosine).clamp(min=torch.finfo(c.dtype).eps).sqrt()
        task, kd = (squared.clamp(min=tiny(c)).sqrt() for squared in (gram.task, gram.kd))
        return Weights(1 / (task * agreement), 1 / (kd * agreement))


@dataclass(frozen=True)
class ConFIG(Rule):
    """ConFIG: equal cosines with both gradients; the length is the sum of both projections (Liu et al. 2024, eq. 2).

    For two losses the direction is that of the sum of the normalised gradients.
    """

    def weights(self, gram: Gram) -> Weights:
        """½(√a + √b)·(1/√a, 1/√b)."""
        a, b, _ = conditioned(gram)
        task, kd = a.sqrt(), b.sqrt()
        return Weights((1 + kd / task) / 2, (1 + task / kd) / 2)


@dataclass(frozen=True)
class GradNorm(Rule):
    """The target that GradNorm trains its weights towards: w_i·|g_i| ∝ r_i^α (Chen et al. 2018, eqs. 1 and 2).

    r_i is a loss divided by its first value, relative to the mean of both. So the loss that decreases more slowly gets
    the longer gradient. The weights sum to 2, as in GradNorm. At α = 0, GradNorm converges to these weights; otherwise
    both of its targets can be reached together only if r_task^α + r_kd^α = 2.

    Args:
        alpha: α ≥ 0. The default is the paper's value for NYUv2, whose losses differ in kind and in speed, like a task
            loss and a KD loss. The paper advises a smaller α for similar losses; 0 makes both gradients equally long.

    Raises:
        ValueError: `alpha` is not in [0, ∞).
    """

    needs: ClassVar[tuple[str, ...]] = ("rates",)
    alpha: float = 1.5

    def __post_init__(self) -> None:
        require(0 <= self.alpha < math.inf, "alpha", self.alpha, "lie in [0, inf)")

    def weights(self, gram: Gram, rates: Tensor) -> Weights:
        """2·(1, λ)/(1 + λ), λ = (r_kd/r_task)^α·√(a/b); the mean of the rates cancels."""
        task_rate, kd_rate = rates.clamp(min=tiny(rates))
        convex = Weights.convex((kd_rate / task_rate) ** self.alpha * length_ratio(gram))
        return Weights(2 * convex.task, 2 * convex.kd)


@dataclass(frozen=True)
class SNR(Scaled):
    """More weight for the loss with the larger share of signal in its gradient. Our rule, not published elsewhere.

    The Gram matrix must contain only the signal, like the unbiased estimate over micro-batches.
    """

    needs: ClassVar[tuple[str, ...]] = ("signal_share",)

    def weights(self, gram: Gram, signal_share: Tensor) -> Weights:
        """(1, κ√(a/b)·ρ_kd/ρ_task), ρ = signal/(signal + noise)."""
        task_share, kd_share = signal_share
        return Weights.additive(self.kappa * length_ratio(gram) * (kd_share / task_share))


@dataclass(frozen=True)
class Evidence(Scaled):
    """More weight for teacher or label, depending on which of them the student agrees with on new examples.

    Our rule, not published elsewhere. The gradients of a batch cannot show which of the two losses is right; examples
    that the student has not been trained on can.

    Args:
        gamma: γ ≥ 0, exponent of the odds.

    Raises:
        ValueError: `gamma` is not in [0, ∞), or as in `Scaled`.
    """

    needs: ClassVar[tuple[str, ...]] = ("odds",)
    splits_kd: ClassVar[bool] = True
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.gamma < math.inf, "gamma", self.gamma, "lie in [0, inf)")

    def weights(self, gram: Gram, odds: Tensor) -> Weights:
        """(1, κ√(a/b)·odds^γ)."""
        return Weights.additive(self.kappa * length_ratio(gram) * odds**self.gamma)


@dataclass(frozen=True)
class Trust(Scaled):
    """One λ per item: the λ of the step, times the trust in the teacher divided by the trust in the label.

    Our rule, not published elsewhere; `balancing.trust` describes the model. The rule returns the λ of the step. The
    items of both losses are weighted by their trust, divided by its mean, so that both gradients are those of weighted
    losses. With the reliabilities α of labels and β of the teacher, t is β/α for numbers. For classes it is
    β/(α·√(1 − β)), where the square root counts as at least 1/4. The λ of an item is κ√(a/b)·r_teacher/r_label, for
    classes divided by that root.
    """

    needs: ClassVar[tuple[str, ...]] = ("trust_ratio",)
    splits_kd: ClassVar[bool] = True

    def weights(self, gram: Gram, trust_ratio: Tensor) -> Weights:
        """(1, κ√(a/b)·t)."""
        return Weights.additive(self.kappa * length_ratio(gram) * trust_ratio)
