"""Rules that weigh the losses by the lengths of their gradients: λ is √(a/b), times something."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_kd_lambda.balancing.rules.base import Rule, Weights, clip_to_feasible, conditioned, require, tiny
from hf_kd_lambda.gradients.gram import Gram


def length_ratio(gram: Gram) -> Tensor:
    """√(a/b), the λ that makes both gradients equally long; 1 where both vanish."""
    a, b, _ = conditioned(gram)
    return a.sqrt() / b.sqrt()


@dataclass(frozen=True)
class Scaled(Rule):
    """A rule with the hyper-parameter κ: how much longer the KD gradient shall be than the task gradient.

    Raises:
        ValueError: `kappa` is not a positive finite number.
    """

    kappa: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.kappa < math.inf, "kappa", self.kappa, "be a positive finite number")


@dataclass(frozen=True)
class NormRatio(Scaled):
    """λ = κ√(a/b): both gradients enter the update with lengths 1 : κ.

    At κ = 1 this is the ratio that IMTL-G, Nash-MTL, ConFIG and GradNorm at α = 0 share for two losses.
    """

    def weights(self, gram: Gram) -> Weights:
        """(1, κ√(a/b))."""
        return Weights.additive(self.kappa * length_ratio(gram))


@dataclass(frozen=True)
class Adaptive(Scaled):
    """κ√(a/b), clipped into the interval in which neither loss increases to first order (from arXiv 2505.06270).

    At κ = 1 it lies inside anyway, in the interval's (geometric) middle.
    """

    clips: ClassVar[bool] = True

    def weights(self, gram: Gram) -> Weights:
        """(1, λ), λ = min(max(κ√(a/b), |c|/b), a/|c|) where c < 0."""
        return Weights.additive(clip_to_feasible(self.kappa * length_ratio(gram), gram))


@dataclass(frozen=True)
class IMTLG(Rule):
    """IMTL-G: the update's projections onto both gradients are equally long (Liu et al. 2021).

    With <d, g_T>/|g_T| = <d, g_D>/|g_D| and w_T + w_D = 1 two losses leave one solution.
    """

    def weights(self, gram: Gram) -> Weights:
        """(√b, √a)/(√a + √b)."""
        a, b, _ = conditioned(gram)
        task, kd = a.sqrt(), b.sqrt()
        return Weights(kd / (task + kd), task / (task + kd))


@dataclass(frozen=True)
class Nash(Rule):
    """Nash-MTL: the update on which the losses agree in Nash's bargaining game (Navon et al. 2022, Algorithm 1).

    Its weights solve G·w = 1/w, G being the Gram matrix. Opposite gradients have nothing to agree on: towards them the
    weights keep their ratio and grow, up to the inverse root of the rounding error.
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
    """ConFIG: equal cosines with both gradients, and as long as both projections together (Liu et al. 2024, eq. 2).

    For two losses the direction is that of the sum of both unit gradients.
    """

    def weights(self, gram: Gram) -> Weights:
        """½(√a + √b)·(1/√a, 1/√b)."""
        a, b, _ = conditioned(gram)
        task, kd = a.sqrt(), b.sqrt()
        return Weights((1 + kd / task) / 2, (1 + task / kd) / 2)


@dataclass(frozen=True)
class GradNorm(Rule):
    """The balance that GradNorm's weights are trained towards: w_i·|g_i| ∝ r_i^α (Chen et al. 2018, eqs. 1 and 2).

    r_i is the share of its first value that a loss still has, relative to the mean of both, so that the loss that
    falls more slowly gets the longer gradient. Weights sum to 2, as GradNorm's do. At α = 0 GradNorm itself comes to
    rest here; otherwise both of its targets can be met at once only where r_T^α + r_D^α = 2.

    The default α is the paper's for NYUv2, whose losses differ in kind and in speed, as a task loss and a KD loss do;
    it advises less where losses are alike, and 0 makes both gradients equally long.

    Raises:
        ValueError: `alpha` is not in [0, ∞).
    """

    needs: ClassVar[tuple[str, ...]] = ("rates",)
    alpha: float = 1.5

    def __post_init__(self) -> None:
        require(0 <= self.alpha < math.inf, "alpha", self.alpha, "lie in [0, inf)")

    def weights(self, gram: Gram, rates: Tensor) -> Weights:
        """2·(1, λ)/(1 + λ), λ = (r_D/r_T)^α·√(a/b); the mean of the rates cancels."""
        task_rate, kd_rate = rates.clamp(min=tiny(rates))
        convex = Weights.convex((kd_rate / task_rate) ** self.alpha * length_ratio(gram))
        return Weights(2 * convex.task, 2 * convex.kd)


@dataclass(frozen=True)
class SNR(Scaled):
    """More weight to the loss whose gradient is signal rather than noise. This rule is ours, not published elsewhere.

    The Gram matrix shall hold the signal parts alone, as the unbiased estimate over micro-batches does.
    """

    needs: ClassVar[tuple[str, ...]] = ("signal_share",)

    def weights(self, gram: Gram, signal_share: Tensor) -> Weights:
        """(1, κ√(a/b)·ρ_D/ρ_T), ρ = signal/(signal + noise)."""
        task_share, kd_share = signal_share
        return Weights.additive(self.kappa * length_ratio(gram) * (kd_share / task_share))


@dataclass(frozen=True)
class Evidence(Scaled):
    """More weight to whichever of teacher and label the student agrees with on examples that are new to it.

    This rule is ours, not published elsewhere. No function of one batch's gradients can tell which of two losses is
    right; examples that the student has not been trained on can.

    Raises:
        ValueError: `gamma` is not in [0, ∞), or as in `Scaled`.
    """

    needs: ClassVar[tuple[str, ...]] = ("odds",)
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.gamma < math.inf, "gamma", self.gamma, "lie in [0, inf)")

    def weights(self, gram: Gram, odds: Tensor) -> Weights:
        """(1, κ√(a/b)·odds^γ)."""
        return Weights.additive(self.kappa * length_ratio(gram) * odds**self.gamma)


@dataclass(frozen=True)
class Trust(Scaled):
    """One λ for each item: that of the step, times the trust in the teacher on the item over that in its label.

    This rule is ours, not published elsewhere; `balancing.trust` has the model. It gives λ of the step. The items of
    both losses are weighted by their trust, divided by its mean, so that both gradients are of weighted losses and
    λ of an item is κ√(a/b)·r_T/r_L.
    """

    needs: ClassVar[tuple[str, ...]] = ("trust_ratio",)

    def weights(self, gram: Gram, trust_ratio: Tensor) -> Weights:
        """(1, κ√(a/b)·β/α), with α and β the reliabilities of labels and teacher."""
        return Weights.additive(self.kappa * length_ratio(gram) * trust_ratio)
