"""KD losses of the logits: of what a classifier says of an example, a token classifier or language model of a token.

Of tokens, all are computed chunk by chunk: see `sum_over_chunks`.
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
    """A sum over items of a loss of their logits."""

    @abstractmethod
    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        """The loss of some items of the batch.

        Args:
            student, teacher: logits `[..., classes]`.
            items: with labels and weights `[...]` of these items.
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
    """T²·KL(teacher ‖ student): `soft_target_loss`, or `token_top_kl_loss` with cached top logits."""

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
    """Between the two: see `jensen_shannon_loss`.

    Raises:
        ValueError: `beta` is not in (0, 1).
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise ValueError(f"beta={self.beta} must lie in (0, 1).")

    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        return jensen_shannon_loss(
            student, teacher, items.labels, items.num_items, items.temperature, self.beta, items.weights
        )


@dataclass(frozen=True)
class LogitMSE(LogitLoss):
    """Squared distance of the outputs, the only one of these for a regression: see `logit_mse_loss`."""

    def of_items(self, student: Tensor, teacher: Tensor, items: LossInputs) -> Tensor:
        return logit_mse_loss(student, teacher, items.labels, items.num_items, items.weights)


@dataclass(frozen=True)
class DKD(LogitLoss):
    """Decoupled KD: see `dkd_loss`. β is the paper's for CIFAR-100, of which it advises more the surer the teacher is.

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
