"""Stop training when losses stay NaN or infinite, before the student is lost."""

from torch import Tensor

PATIENCE = 10
"""Optimizer steps in a row with a loss that is not finite: measuring steps and a gradient scaler skip such steps."""


class NotFiniteError(ValueError):
    """The losses of a run are NaN or infinite."""


class FiniteLosses:
    """Counts the steps in a row whose loss is not finite."""

    def __init__(self) -> None:
        self._count = 0

    def check(self, loss: Tensor, step: int, skips: bool) -> None:
        """Refuse a loss that would make the student NaN, or has not been finite for `PATIENCE` steps.

        Args:
            loss: of a micro-batch, a scalar or `[losses]`.
            step: number of the optimizer step, for the message.
            skips: whether a step with such a loss changes nothing, so that it may pass.

        Raises:
            NotFiniteError: see above.
        """
        if bool(loss.isfinite().all()):
            self._count = 0
            return
        self._count += 1
        if not skips or self._count >= PATIENCE:
            values = ", ".join(f"{value:g}" for value in loss.flatten().tolist())
            raise NotFiniteError(
                f"the loss of optimizer step {step + 1} is not finite ({values}), so that training stops before the "
                "student is lost: lower learning_rate, or set precision to fp32 if it is fp16; look for examples and "
                "teacher outputs that are not finite. The last checkpoint is from before."
            )
