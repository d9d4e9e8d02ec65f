"""Base class and helpers of the rules, and the scaling of their weights for training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.utils.names import check_known

INPUTS = {
    True: ("losses", "rates", "smoothness", "signal_share", "odds", "trust_ratio"),
    False: ("progress",),
}
"""What `Rule.needs` may name, by `Rule.measures`."""


class Weights(NamedTuple):
    """Weights of the two losses, same shape as the entries of the Gram matrix."""

    task: Tensor
    """w_task"""
    kd: Tensor
    """w_kd"""

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
    """Maps a Gram matrix to weights of the losses. A rule is a frozen dataclass of its hyper-parameters.

    Attributes:
        needs: names of further inputs, all tensors, pairs in the order (task, KD):

            - `progress` `[]`: completed share of the training; only without `measures`, and then the only input.
            - `losses` `[2]`: both > 0.
            - `rates` `[2]`: losses divided by their first values.
            - `smoothness` `[2]`: s = β·η, where the loss is β|d|²/2 above its tangent, on average over steps.
            - `signal_share` `[2]` or `[2, groups]`: share of a and b that is not noise, in (0, 1].
            - `odds` `[]`: agreement of the student with the teacher, divided by its agreement with the label, on
              examples that it has not been trained on.
            - `trust_ratio` `[]`: t, the reliability of the teacher relative to that of the labels.
        measures: whether the rule needs gradients. If not, it uses only shape, dtype and device of the matrix.
        clips: whether the rule clips λ to `feasible_interval`.
        splits_kd: whether the rule can give each KD loss a λ (`lambda_scope: loss`).
    """

    needs: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[bool] = True
    clips: ClassVar[bool] = False
    splits_kd: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check `needs`: the trainer would find an error only after the teacher's outputs are cached.

        Raises:
            ValueError: training does not have one of the inputs.
        """
        super().__init_subclass__(**kwargs)
        for name in cls.needs:
            check_known(name, INPUTS[cls.measures], f"input of {cls.__name__} with measures={cls.measures}:")

    @abstractmethod
    def weights(self, gram: Gram, *args: Any, **needs: Any) -> Weights:
        """The weights as published, not normalised.

        Finite for every finite Gram matrix. A vanishing gradient is replaced by a very short one, orthogonal to the
        other. If both vanish, the weights are those for gradients of equal length.

        Args:
            gram: entries of one shape, `[]` or `[groups]`, in fp32 or fp64.
            needs: the inputs listed in `needs`.
        """

    def __call__(self, gram: Gram, **needs: Tensor) -> Weights:
        """The weights for training: negative ones, which only Aligned-MTL has, become 0."""
        published = self.weights(gram, **needs)
        return Weights(published.task.clamp(min=0.0), published.kd.clamp(min=0.0))


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Check a hyper-parameter.

    Args:
        holds: the condition to check.
        name: the setting.
        value: its value.
        allowed: completes "must …" in the message.

    Raises:
        ValueError: `holds` is false.
    """
    if not holds:
        raise ValueError(f"{name}={value!r} must {allowed}.")


def tiny(like: Tensor) -> float:
    """The smallest positive normal number of a tensor's dtype."""
    return torch.finfo(like.dtype).tiny


def rounding(like: Tensor) -> float:
    """Relative bound below which a difference of Gram entries may be rounding error: 64 epsilons of the dtype.

    Entries are sums of many products, with a rounding error of a few epsilons. So the relative error of a difference
    of this size is a few percent.
    """
    return 64 * torch.finfo(like.dtype).eps


def conditioned(gram: Gram) -> Gram:
    """The Gram matrix scaled to about 1, safe for divisions and roots.

    Products of entries do not overflow. a and b are positive: a vanishing gradient becomes a very short orthogonal
    one. |c| ≤ √(ab), which rounding may have violated.
    """
    smallest = tiny(gram.task)
    half = torch.maximum(gram.task, gram.kd).clamp(min=2 * smallest) / 2
    scale = half.log2().floor().exp2()  # a power of two: dividing by it is exact
    a, b = gram.task / scale, gram.kd / scale
    largest_dot = a.sqrt() * b.sqrt()
    c = torch.clamp(gram.dot / scale, -largest_dot, largest_dot)
    return Gram(a + smallest, b + smallest, c)


def feasible_interval(gram: Gram) -> tuple[Tensor, Tensor]:
    """The interval of λ in which neither loss increases to first order: a + λc ≥ 0 and c + λb ≥ 0.

    Without conflict (c ≥ 0) it is [0, ∞); with conflict it is [|c|/b, a/|c|], which is not empty because of
    Cauchy-Schwarz. Its geometric mean is √(a/b).
    """
    a, b, c = conditioned(gram)
    conflict = c.clamp(max=0.0).abs()  # abs, as a / −0.0 would be −∞
    return conflict / b, a / conflict


def clip_to_feasible(lambda_: Tensor, gram: Gram) -> Tensor:
    """λ clipped to `feasible_interval`."""
    low, high = feasible_interval(gram)
    return torch.minimum(torch.maximum(lambda_, low), high)


def loss_weights(lambda_: Tensor, form: str, total: Tensor | float) -> Weights:
    """Weights of the losses with ratio λ, scaled so that rules differ in direction and not in step length.

    The convex form is the default for training: the combined gradient is never longer than the longer of the two. So a
    learning rate that suits both single losses suits every rule and every λ. Most distillation papers use this form.

    Args:
        lambda_: `[]` or `[groups]`; ∞ means only the KD loss, except in the additive form.
        form: `additive`: (1, λ); `convex`: sum 1; `sum_two`: sum 2, which is (1, 1) at λ = 1; `raw`: sum `total`.
        total: w_task + w_kd, for `raw`.
    """
    if form == "additive":
        return Weights.additive(lambda_)
    scale = {"convex": 1.0, "sum_two": 2.0, "raw": total}[form]
    convex = Weights.convex(lambda_)
    return Weights(scale * convex.task, scale * convex.kd)
