"""Both losses of a batch, from what student and teacher say of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import KDLoss, LossInputs, TeacherBatch
from hf_kd_lambda.losses.functional import count_items, sum_over_chunks, task_loss
from hf_kd_lambda.losses.functional.labels import targets

TaskLoss = Callable[..., Tensor]


class BatchLosses(NamedTuple):
    """What a batch is learned from: scalars in fp32."""

    task: Tensor
    kd: Tensor
    parts: list[Tensor]
    """Of the KD loss, without their weights; none where there is one KD loss."""

    def stacked(self) -> Tensor:
        """All of them, `[2 + parts]`."""
        return torch.stack([self.task, self.kd, *self.parts])


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Refuse labels that are not one an item, by which items could not be counted.

    Args:
        logits: `[examples, ..., classes]`, or `[examples, 1]` of a regression.
        labels: to be `[examples, ...]`.

    Raises:
        ValueError: they are not.
    """
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels of shape {list(labels.shape)} are not one an item, as logits of shape {list(logits.shape)} ask "
            f"for: give one label of {list(logits.shape[:-1])}; of a regression a number, not a list of one; soft and "
            "multi-hot labels are not supported."
        )


class Objective:
    """task_loss, and kd_loss as the weighted sum of KD losses.

    Args:
        kd_losses: by name.
        temperature: of soft targets.
        label_smoothing: of the task loss.
        own_task_loss: `(outputs, labels, num_items_in_batch)` to a scalar, instead of the usual one. Of a causal
            model it is given the labels as they are and shifts them itself, as in transformers.
    """

    def __init__(
        self,
        kd_losses: Mapping[str, KDLoss],
        temperature: float,
        label_smoothing: float = 0.0,
        own_task_loss: TaskLoss | None = None,
    ) -> None:
        self.kd_losses = dict(kd_losses)
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.own_task_loss = own_task_loss

    @property
    def needs(self) -> set[str]:
        """Outputs of both models, beside the logits, from which the KD losses are computed."""
        return {need for loss in self.kd_losses.values() for need in loss.needs}

    @property
    def weights(self) -> list[float]:
        """Of the KD losses in their sum."""
        return [loss.weight for loss in self.kd_losses.values()]

    @property
    def names(self) -> list[str]:
        """Of the losses that a call returns, in their order."""
        parts = [f"kd_loss/{name}" for name in self.kd_losses] if len(self.kd_losses) > 1 else []
        return ["task_loss", "kd_loss", *parts]

    def __call__(
        self,
        student: Mapping[str, Any],
        teacher: TeacherBatch,
        inputs: Mapping[str, Any],
        num_items: Tensor | int | None = None,
        kd_weights: Tensor | None = None,
    ) -> BatchLosses:
        """The losses of a batch.

        Args:
            student: outputs by name.
            teacher: outputs for the same batch.
            inputs: the batch, with its `labels` and, of tokens, `attention_mask`.
            num_items: what sums over items are divided by; None for the items of this batch.
            kd_weights: `[kd_losses]`, of the sum; None for their own.

        Raises:
            ValueError: there is not one label for each item.
        """
        loss_inputs = self.loss_inputs(student, teacher, inputs, num_items)
        parts = [loss(loss_inputs) for loss in self.kd_losses.values()]
        weights = self.weights if kd_weights is None else kd_weights
        kd = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()
        return BatchLosses(
            self._task_loss(student, inputs, loss_inputs.num_items), kd, parts if len(parts) > 1 else []
        )

    def loss_inputs(
        self,
        student: Mapping[str, Any],
        teacher: TeacherBatch,
        inputs: Mapping[str, Any],
        num_items: Tensor | int | None = None,
    ) -> LossInputs:
        """What a KD loss is computed from; arguments and errors as of a call."""
        labels = targets(inputs)
        check_labels(student["logits"], labels)
        counted = torch.as_tensor(count_items(labels) if num_items is None else num_items)
        num_items = torch.where(counted > 0, counted, 1)  # where all labels are ignored, the losses are 0, not 0/0
        return LossInputs(student, teacher, inputs.get("attention_mask"), labels, num_items, self.temperature)

    def _task_loss(self, student: Mapping[str, Any], inputs: Mapping[str, Any], num_items: Tensor | int) -> Tensor:
        if self.own_task_loss is not None:
            return self.own_task_loss(student, inputs["labels"], num_items_in_batch=num_items)

        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            return task_loss(logits, labels, num_items, self.label_smoothing)

        logits, labels = student["logits"], targets(inputs)
        return sum_over_chunks(loss, (logits,), labels)
