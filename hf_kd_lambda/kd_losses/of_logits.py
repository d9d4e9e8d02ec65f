"""KD losses of the logits: of what a classifier says of an example, or a token classifier of each token."""

from dataclasses import dataclass

from torch import Tensor

from hf_kd_lambda.kd_losses.kd_loss import Given, KDLoss
from hf_kd_lambda.losses import (
    dkd_loss,
    jensen_shannon_loss,
    logit_mse_loss,
    reverse_kl_loss,
    soft_target_loss,
    token_kl_loss,
)


def _of_logits(given: Given) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    return given.student["logits"], given.teacher["logits"], given.labels, given.num_items


@dataclass(frozen=True)
class SoftTargets(KDLoss):
    """T²·KL(teacher ‖ student): see `soft_target_loss`, and of tokens `token_kl_loss`."""

    def __call__(self, given: Given) -> Tensor:
        if given.labels.dim() > 1:
            return token_kl_loss(*_of_logits(given), given.temperature, shift=False)
        return soft_target_loss(*_of_logits(given), given.temperature)


@dataclass(frozen=True)
class ReverseKL(KDLoss):
    """T²·KL(student ‖ teacher): see `reverse_kl_loss`."""

    def __call__(self, given: Given) -> Tensor:
        return reverse_kl_loss(*_of_logits(given), given.temperature)


@dataclass(frozen=True)
class JensenShannon(KDLoss):
    """Between the two: see `jensen_shannon_loss`.

    Raises:
        ValueError: `beta` is not in (0, 1).
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1:
            raise ValueError(f"beta={self.beta} must lie in (0, 1).")

    def __call__(self, given: Given) -> Tensor:
        return jensen_shannon_loss(*_of_logits(given), given.temperature, self.beta)


@dataclass(frozen=True)
class LogitMSE(KDLoss):
    """Squared distance of the outputs, the only one of these for a regression: see `logit_mse_loss`."""

    def __call__(self, given: Given) -> Tensor:
        return logit_mse_loss(*_of_logits(given))


@dataclass(frozen=True)
class DKD(KDLoss):
    """Decoupled KD: see `dkd_loss`. β is the paper's for CIFAR-100, of which it advises more the surer the teacher is.

    Raises:
        ValueError: `alpha` or `beta` is negative.
    """

    alpha: float = 1.0
    beta: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")

    def __call__(self, given: Given) -> Tensor:
        return dkd_loss(*_of_logits(given), given.temperature, self.alpha, self.beta)
