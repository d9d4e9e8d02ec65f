"""What a rule is, what all rules share, and how its weights are scaled for training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.gradients.gram import Gram


class Weights(NamedTuple):
    """Weights of the two losses, of the Gram matrix's shape each."""

    task: Tensor
    """w_T"""
    kd: Tensor
    """w_D"""

    @classmethod
    def additive(cls, lambda_: Tensor) -> "Weights":
        """(1, λ)."""
        return cls(torch.ones_like(lambda_), lambda_)

    @classmethod
    def convex(cls, lambda_: Tensor) -> "Weights":
        """(1, λ)/(1 + λ), also for λ = ∞."""
        return cls(1 / (1 + lambda_), 1 / (1 + 1 / lambda_))


@dataclass(frozen=True)
class Rule(ABC):
    """Turns a Gram matrix into weights of the losses. A rule is a frozen dataclass of its hyper-parameters.

    Attributes:
        needs: names of what a rule is called with beside the Gram matrix, all tensors, pairs in the order task, KD:
            `progress` `[]`, share of the training that is done; `losses` `[2]`, both > 0; `rates` `[2]`, each loss
            divided by its first value; `smoothness` `[2]`, s = β·η, with β such that the loss lies β|d|²/2 above its
            tangent, on average over the steps taken; `signal_share` `[2]` or `[2, groups]`, in (0, 1], the part of a
            and b that is no noise; `odds` `[]`, how much more often the student, on examples it has not been trained
            on, sides with the teacher than with the label; `trust_ratio` `[]`, β/α of the
            reliabilities of teacher and labels.
        measures: whether a rule needs gradients. One that does not takes only shape, dtype and device of the matrix.
        clips: whether a rule keeps λ in `feasible_interval`, which it otherwise would leave.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[bool] = True
    clips: ClassVar[bool] = False

    @abstractmethod
    def weights(self, gram: Gram, *args: Any, **needs: Any) -> Weights:
        """The weights as published, un-normalised.

        Finite for every finite Gram matrix. Where the formula divides by a gradient that vanishes, the weights are
        those of a very short gradient orthogonal to the other; of two that vanish, they are those of equal lengths.

        Args:
            gram: entries of one shape, `[]` or `[groups]`, in fp32 or fp64.
            needs: what `needs` names.
        """

    def __call__(self, gram: Gram, **needs: Tensor) -> Weights:
        """The weights to train with: a negative one, which Aligned-MTL alone has, becomes 0."""
        published = self.weights(gram, **needs)
        return Weights(published.task.clamp(min=0.0), published.kd.clamp(min=0.0))


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a hyper-parameter.

    Raises:
        ValueError: `holds` is false; the message names the setting, its value and what is allowed.
    """
    if not holds:
        raise ValueError(f"{name}={value!r} must {allowed}.")


def tiny(like: Tensor) -> float:
    """The smallest normal number of a tensor's dtype."""
    return torch.finfo(like.dtype).tiny


def rounding(like: Tensor) -> float:
    """The relative size up to which a difference of Gram entries may be rounding error: 64 epsilons of a dtype.

    Entries are sums of many products, so that they are known to a few epsilons, not to one; a difference of this size
    is known to a few percent.
    """
    return 64 * torch.finfo(like.dtype).eps


def conditioned(gram: Gram) -> Gram:
    """The Gram matrix, scaled to the size of 1 and made safe to divide by and to take roots of.

    No product of its entries overflows; a and b are positive, so that of a vanishing gradient a very short orthogonal
    one is left; and |c| ≤ √(ab), from which rounding may have led away.
    """
    smallest = tiny(gram.task)
    half = torch.maximum(gram.task, gram.kd).clamp(min=2 * smallest) / 2
    scale = half.log2().floor().exp2()  # a power of two, dividing by which rounds nothing
    a, b = gram.task / scale, gram.kd / scale
    largest_dot = a.sqrt() * b.sqrt()
    c = torch.clamp(gram.dot / scale, -largest_dot, largest_dot)
    return Gram(a + smallest, b + smallest, c)


def feasible_interval(gram: Gram) -> tuple[Tensor, Tensor]:
    """The λ for which neither loss increases to first order: a + λc ≥ 0 and c + λb ≥ 0.

    Without conflict (c ≥ 0) that is every λ ≥ 0, else [|c|/b, a/|c|], which Cauchy-Schwarz keeps from being empty and
    whose geometric mean is √(a/b).
    """
    a, b, c = conditioned(gram)
    conflict = c.clamp(max=0.0).abs()  # abs, as a / −0.0 would be −∞
    return conflict / b, a / conflict


def clip_to_feasible(lambda_: Tensor, gram: Gram) -> Tensor:
    """The feasible λ nearest to a wanted one."""
    low, high = feasible_interval(gram)
    return torch.minimum(torch.maximum(lambda_, low), high)


def loss_weights(lambda_: Tensor, form: str, total: Tensor | float) -> Weights:
    """Weights of the losses in the ratio λ, so that rules differ in direction and not in step length.

    The convex form is the default of training: with it the combined gradient is never longer than the longer of the
    two, whatever λ is, so that a learning rate that suits either loss alone suits every rule and every λ of a run. It
    is also the form in which most distillation papers give their weight.

    Args:
        lambda_: `[]` or `[groups]`; ∞ is the KD loss alone, except in the additive form.
        form: `additive` is (1, λ); `convex` sums to 1; `sum_two` to 2, as if both losses were just added at λ = 1;
            `raw` to `total`.
        total: the rule's own w_T + w_D.
    """
    if form == "additive":
        return Weights.additive(lambda_)
    scale = {"convex": 1.0, "sum_two": 2.0, "raw": total}[form]
    convex = Weights.convex(lambda_)
    return Weights(scale * convex.task, scale * convex.kd)
