"""Rules that turn the Gram matrix of the two gradients into λ: pure functions of tensors, without state.

λ is the ratio of the KD loss's weight to the task loss's, so the update is along g_T + λ·g_D. A step along it with
learning rate η changes the losses, to first order, by

    ΔL_T = −η (a + λc)        ΔL_D = −η (c + λb)

with a = |g_T|², b = |g_D|², c = <g_T, g_D> (the linear terms of arXiv 2505.06270's expansion).
"""

from typing import Protocol

import torch
from torch import Tensor

from hf_kd_lambda.gram import Gram


def norm_ratio(gram: Gram, kappa: float = 1.0) -> Tensor:
    """λ = κ√(a/b): both gradients enter the update with lengths 1 : κ.

    At κ = 1 this is the ratio that IMTL-G (Liu et al. 2021) and GradNorm at α = 0 (Chen et al. 2018) share for two
    losses.
    """
    return kappa * (gram.task / gram.kd).sqrt()


def feasible_interval(gram: Gram) -> tuple[Tensor, Tensor]:
    """The λ for which neither loss increases to first order: a + λc ≥ 0 and c + λb ≥ 0.

    Without conflict (c ≥ 0) that is every λ ≥ 0, else [|c|/b, a/|c|], which Cauchy-Schwarz keeps from being empty and
    whose geometric mean is √(a/b).
    """
    conflict = gram.dot.clamp(max=0.0).abs()  # abs, as a / −0.0 would be −∞
    return conflict / gram.kd, gram.task / conflict


def adaptive(gram: Gram, kappa: float = 1.0) -> Tensor:
    """κ√(a/b), clipped into the feasible interval. At κ = 1 it lies inside anyway, in the interval's middle."""
    low, high = feasible_interval(gram)
    return torch.minimum(torch.maximum(norm_ratio(gram, kappa), low), high)


class MeasuredRule(Protocol):
    """A rule that needs the Gram matrix."""

    def __call__(self, gram: Gram, kappa: float = 1.0) -> Tensor:
        """λ, a scalar tensor."""
        ...


MEASURED_RULES: dict[str, MeasuredRule] = {"norm_ratio": norm_ratio, "adaptive": adaptive}


def loss_weights(lambda_: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """(w_task, w_kd) with w_kd/w_task = λ: (1, λ) in the additive form, (1, λ)/(1 + λ) in the convex one."""
    one = torch.ones_like(lambda_)
    return (one, lambda_) if form == "additive" else (one / (1 + lambda_), lambda_ / (1 + lambda_))
