"""A hand-written `Trainer` subclass with a fixed weight of the KD loss."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.contenders.task import Parts, Task, compute_accuracy, train_and_save, training_arguments


class KDTrainer(Trainer):
    """A `Trainer` that minimises (1 − kd_weight)·CE + kd_weight·T²·KL(teacher ‖ student)."""

    def __init__(
        self, *args: Any, teacher: PreTrainedModel, temperature: float, kd_weight: float, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval()
        self.temperature = temperature
        self.kd_weight = kd_weight

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, SequenceClassifierOutput]:
        """The mixed loss, averaged over the batch."""
        outputs = model(**inputs)
        # The Trainer autocasts the student alone.
        with torch.no_grad(), self.accelerator.autocast():
            teacher_logits = self.teacher(**inputs).logits.float()
        kd_loss = self.temperature**2 * F.kl_div(
            F.log_softmax(outputs.logits / self.temperature, dim=-1),
            F.softmax(teacher_logits / self.temperature, dim=-1),
            reduction="batchmean",
        )
        loss = (1 - self.kd_weight) * outputs.loss + self.kd_weight * kd_loss
        return (loss, outputs) if return_outputs else loss


def make_trainer(task: Task, parts: Parts, folder: Path) -> KDTrainer:
    """The trainer, with the defaults of `TrainingArguments` except the task's settings."""
    return KDTrainer(
        parts.student,
        TrainingArguments(bf16=task.precision == "bf16", **training_arguments(task, folder)),
        teacher=parts.teacher,
        temperature=task.temperature,
        kd_weight=task.kd_weight,
        train_dataset=parts.train,
        eval_dataset=parts.validation,
        data_collator=parts.collator,
        compute_metrics=compute_accuracy,
    )


def train(task: Task, parts: Parts, folder: Path) -> int:
    """See `train_and_save`."""
    return train_and_save(make_trainer(task, parts, folder), parts.student, folder)
