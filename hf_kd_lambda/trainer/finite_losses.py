"""Stop training when losses, gradients or weights are NaN or infinite, before such a model is saved."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_kd_lambda.gradients.gram import local_parts

PATIENCE = 10
"""Optimizer steps in a row with a loss that is not finite: measuring steps and a gradient scaler skip such steps."""


class NotFiniteError(ValueError):
    """Losses, gradients or weights of a run are NaN or infinite."""


class FiniteLosses:
    """Counts the optimizer steps in a row whose loss is not finite."""

    def __init__(self) -> None:
        self._count = 0
        self._loss: Tensor | float = 0.0

    def check(self, loss: Tensor, step: int, skips: bool, what: str = "loss", ends_step: bool = True) -> None:
        """Refuse a loss that would make the student NaN, or has not been finite for `PATIENCE` steps.

        Args:
            loss: loss of a micro-batch, a scalar or `[losses]`; they are added up until the step ends.
            step: number of the optimizer step, for the message.
            skips: whether a step with such a loss changes nothing, so that it may pass.
            what: name of the values, for the message.
            ends_step: whether this is the step's last micro-batch.

        Raises:
            NotFiniteError: see above.
        """
        self._loss = self._loss + loss.detach()
        if not ends_step:
            return
        loss, self._loss = self._loss, 0.0
        if bool(loss.isfinite().all()):
            self._count = 0
            return
        self._count += 1
        if not skips or self._count >= PATIENCE:
            values = ", ".join(f"{value:g}" for value in loss.flatten().tolist())
            raise NotFiniteError(
                f"the {what} of optimizer step {step + 1} is not finite ({values}), so that training stops before the "
                "student is lost: lower learning_rate, or set precision to fp32 if it is fp16; look for examples and "
                "teacher outputs that are not finite. The last checkpoint is from before."
            )


class FiniteWeights(TrainerCallback):
    """Stops training before weights that are not finite are saved, compared or kept.

    A loss shows them only at the next step, which the last step and a checkpoint do not wait for. This callback must
    come after those that ask for checkpoints.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before a checkpoint."""
        if control.should_save:
            check_weights(kwargs["model"], state.global_step)

    on_epoch_end = on_step_end

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the evaluated model may become the best one."""
        check_weights(kwargs["model"], state.global_step)

    on_train_end = on_evaluate


def check_weights(model: nn.Module, step: int) -> None:
    """Refuse trained weights that are NaN or infinite, on any rank.

    Args:
        model: all ranks must call this together.
        step: number of optimizer steps, for the message.

    Raises:
        NotFiniteError: see above.
    """
    trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
    if not trained:  # adapters are merged, or the student is frozen
        return
    local = local_parts(trained)
    finite = torch.stack([weight.isfinite().all() for weight in local]).all().int()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    if not finite:
        raise NotFiniteError(
            f"the weights after optimizer step {step} are not finite, so that they are not saved: lower "
            "learning_rate, or set precision to fp32 if it is fp16. The last checkpoint is from before."
        )
