"""Rules that treat task loss and KD loss differently, or that use the values of the losses."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from hf_kd_lambda.balancing.rules.base import Rule, Weights, clip_to_feasible, conditioned, require, tiny
from hf_kd_lambda.balancing.rules.common_descent import MGDA
from hf_kd_lambda.gradients.gram import Gram

TaylorTarget = Literal["task", "sum"]


@dataclass(frozen=True)
class CosineGate(Rule):
    """Uses the KD loss only if its gradient does not conflict with the task gradient (Du et al. 2018).

    Args:
        weighted: use the cosine of both gradients as its weight, instead of 1.
    """

    weighted: bool = False

    def weights(self, gram: Gram) -> Weights:
        """(1, 1[c ≥ 0]), or (1, max(0, cos)) if weighted."""
        a, b, c = conditioned(gram)
        if self.weighted:
            return Weights.additive((c / (a.sqrt() * b.sqrt())).clamp(0.0, 1.0))
        return Weights.additive((c >= 0).to(c.dtype))


@dataclass(frozen=True)
class DTO(Rule):
    """DTO-KD: MGDA on the logarithms of the losses (Hayder et al., ICLR 2026).

    ∇log L = g/L, so relative decreases are balanced. As weights of the losses, they are ω_i/L_i. The paper's ω is the
    shortest combination with any sign; here it is that of MGDA, in [0, 1], because λ is not negative.
    """

    needs: ClassVar[tuple[str, ...]] = ("losses",)

    def weights(self, gram: Gram, losses: Tensor) -> Weights:
        """(ω_task/L_task, ω_kd/L_kd), ω: MGDA of the Gram matrix (a/L_task², b/L_kd², c/(L_task·L_kd))."""
        task_loss, kd_loss = losses.clamp(min=tiny(losses))
        a, b, c = conditioned(gram)
        larger = losses.max().clamp(min=tiny(losses))
        x, y = task_loss / larger, kd_loss / larger
        # The same matrix times (L_task·L_kd)², so that nothing is divided by a vanishing loss.
        omega = MGDA().weights(Gram(a * y**2, b * x**2, c * x * y))
        return Weights(omega.task / task_loss, omega.kd / kd_loss)


@dataclass(frozen=True)
class Taylor2(Rule):
    """The λ that minimizes the quadratic upper bound of a loss, within the feasible interval.

    A step along d = g_task + λ·g_kd changes a β_i-smooth loss by ΔL_i ≤ −η<g_i, d> + β_i·η²|d|²/2 (the descent lemma,
    Nesterov 2004, lemma 1.2.3; quadratic in λ as in arXiv 2505.06270). With s_i = β_i·η its derivative is 0 for

    - L_task: c = s_task·(c + λb)
    - L_task + L_kd: b + c = (s_task + s_kd)·(c + λb)

    In conflict, the task loss decreases most at the lower end of the interval: the smallest λ for which the KD loss
    does not increase. Without curvature (s ≤ 0), λ is the end of the interval in the direction of the first-order
    term.

    The bound is that of a step of this length, `lambda_form: additive`. The default, `convex`, makes a shorter step
    with the same λ, for which another λ would be best.

    Args:
        target: the loss to bound, `task` or `sum`.

    Raises:
        ValueError: `target` is neither.
    """

    needs: ClassVar[tuple[str, ...]] = ("smoothness",)
    clips: ClassVar[bool] = True
    target: TaylorTarget = "task"

    def __post_init__(self) -> None:
        choices = get_args(TaylorTarget)
        require(self.target in choices, "target", self.target, f"be one of {', '.join(choices)}")

    def weights(self, gram: Gram, smoothness: Tensor) -> Weights:
        """(1, λ), λ = (c/b)(1/s_task − 1), or 1/s + (c/b)(1/s − 1) with s = s_task + s_kd; clipped."""
        _, b, c = conditioned(gram)
        s = smoothness[0] if self.target == "task" else smoothness.sum(dim=0)
        inverse = 1 / s.clamp(min=tiny(s) ** 0.5)
        optimum = (c / b) * (inverse - 1)
        return Weights.additive(clip_to_feasible(optimum if self.target == "task" else inverse + optimum, gram))
