"""KD losses on logits, of examples or of tokens.

For tokens, all of them are computed chunk by chunk, see `sum_over_chunks`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_kd_lambda.losses.base import KDLoss, LossInputs
from hf_kd_lambda.losses.functional import (
    dkd_loss,
    jensen_shannon_loss,
    logit_mse_loss,
    reverse_kl_loss,
    soft_target_loss,
    sum_over_chunks,
    token_top_kl_loss,
)


@dataclass(frozen=True)
class LogitLoss(KDLoss):
    """A loss on logits, summed over items."""

    @abstractmethod
    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        """The loss of a chunk of items, a scalar in fp32.

        Args:
            student, teacher: logits of the chunk, `[..., classes]`.
            items: the batch, with the labels and weights `[...]` of the chunk.
        """

    def __call__(self, inputs: LossInputs) -> Tensor:
        def loss(student: Tensor, weights: Tensor | None, *teacher_and_labels: Tensor) -> Tensor:
            *teacher, labels = teacher_and_labels
            items = inputs._replace(labels=labels, weights=weights)
            return self.of_items(student, inputs.teacher.logits_of(*teacher), items)

        return sum_over_chunks(
            loss, (inputs.student["logits"], inputs.weights, *inputs.teacher.chunked), inputs.labels
        )


@dataclass(frozen=True)
class SoftTargets(LogitLoss):
    """See `soft_target_loss`, or `token_top_kl_loss` if only the top k logits are cached."""

    def __call__(self, inputs: LossInputs) -> Tensor:
        top_k = inputs.teacher.top_k
        if top_k is None:
            return super().__call__(inputs)
        return token_top_kl_loss(
            inputs.student["logits"],
            top_k.log_probs,
            top_k.indices,
            inputs.labels,
            inputs.num_items,
            inputs.temperature,
            weights=inputs.weights,
        )

    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        return soft_target_loss(student, teacher, items.labels, items.num_items, items.temperature, items.weights)


@dataclass(frozen=True)
class ReverseKL(LogitLoss):
    """T²·KL(student ‖ teacher): see `reverse_kl_loss`."""

    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        return reverse_kl_loss(student, teacher, items.labels, items.num_items, items.temperature, items.weights)


@dataclass(frozen=True)
class JensenShannon(LogitLoss):
    """Between `soft_targets` and `reverse_kl`: see `jensen_shannon_loss`.

    Args:
        beta: the teacher's share of the mixture, in (0, 1).

    Raises:
        ValueError: `beta` is not in (0, 1).
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise ValueError(
                f"beta={self.beta} must lie in (0, 1): at 0 and 1 the Jensen-Shannon divergence is 0. Use "
                "soft_targets, its limit at 0 relative to beta, or reverse_kl, its limit at 1 relative to 1 - beta."
            )

    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        return jensen_shannon_loss(
            student, teacher, items.labels, items.num_items, items.temperature, self.beta, items.weights
        )


@dataclass(frozen=True)
class LogitMSE(LogitLoss):
    """Squared distance of the logits, the only loss here for regression: see `logit_mse_loss`."""

    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        return logit_mse_loss(student, teacher, items.labels, items.num_items, items.weights)


@dataclass(frozen=True)
class DKD(LogitLoss):
    """Decoupled KD: see `dkd_loss`. The paper advises a larger β for a more confident teacher.

    Args:
        alpha: weight of TCKD (label against all other classes), ≥ 0.
        beta: weight of NCKD (among the other classes), ≥ 0. The default is the paper's value for CIFAR-100.

    Raises:
        ValueError: `alpha` or `beta` is negative.
    """

    uses_labels: ClassVar[bool] = True
    alpha: float = 1.0
    beta: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")

    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        return dkd_loss(
            student, teacher, items.labels, items.num_items, items.temperature, self.alpha, self.beta, items.weights
        )
