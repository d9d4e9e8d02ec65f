"""Task loss and KD loss of a batch, from student and teacher outputs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import KDLoss, LossInputs, TeacherBatch
from hf_kd_lambda.losses.class_weights import item_weights
from hf_kd_lambda.losses.functional import sum_over_chunks, task_loss
from hf_kd_lambda.losses.functional.labels import SHIFTED, ItemLabels, item_labels, targets

TaskLoss = Callable[..., Tensor]


class ItemWeights(NamedTuple):
    """Per-item weights of each loss, same shape as the labels; None means 1."""

    task: Tensor | None
    kd: Tensor | None
    teachers: Tensor | None = None
    """`[..., teachers]`: weights of several teachers in the soft targets of an item; None if they are fixed."""


NO_WEIGHTS = ItemWeights(None, None)


class BatchLosses(NamedTuple):
    """The losses of a batch: scalars in fp32."""

    task: Tensor
    kd: Tensor
    parts: list[Tensor]
    """The single KD losses, without their weights; empty if there is only one."""

    def stacked(self) -> Tensor:
        """All losses in the order of `Objective.names`, `[2 + parts]`."""
        return torch.stack([self.task, self.kd, *self.parts])


def check_label_shape(logits: Tensor, labels: Tensor) -> None:
    """Check that there is exactly one label per item, since items are counted by their labels.

    Args:
        logits: `[examples, ..., classes]`, or `[examples, 1]` for regression.
        labels: must have the shape `[examples, ...]`, or `[examples, classes]` for soft labels (floats).

    Raises:
        ValueError: the shape differs.
    """
    are_soft = labels.is_floating_point() and labels.dim() == 2 and labels.shape[1] > 1
    if labels.shape != (logits.shape if are_soft else logits.shape[:-1]):
        raise ValueError(
            f"labels have shape {list(labels.shape)}, but logits of shape {list(logits.shape)} need one label per "
            f"item: give labels of shape {list(logits.shape[:-1])}. For regression give a number, not a list of one "
            "number. For soft labels give one share per class and example. For several labels per example set "
            "problem_type in the student's config to multi_label_classification."
        )


def check_same_logits(student: Tensor, teacher: TeacherBatch) -> None:
    """Check that student and teacher return logits for the same items and classes: others might broadcast.

    Args:
        student: its logits, `[examples, ..., classes]`.
        teacher: its outputs for the same batch.

    Raises:
        ValueError: the shapes differ.
    """
    shape = [*teacher.chunked[0].shape[:-1], teacher.classes]
    if shape != [*student.shape]:
        raise ValueError(
            f"the teacher returns logits of shape {shape}, the student of shape {list(student.shape)}: use a teacher "
            "for the same task, with the student's classes in the same order."
        )


class Objective:
    """Computes the task loss, and the KD loss as a weighted sum of KD losses.

    Args:
        kd_losses: KD losses by name.
        temperature: T > 0 of the losses on softened logits.
        label_smoothing: label smoothing of the task loss, in [0, 1).
        own_task_loss: replaces the task loss: `(outputs, labels, num_items_in_batch)` to a scalar. For a causal model
            it gets unshifted labels and shifts them itself, as in transformers.
        class_weights: weights of the classes in the built-in task loss, `[classes]`; None means 1.
    """

    def __init__(
        self,
        kd_losses: Mapping[str, KDLoss],
        temperature: float,
        label_smoothing: float = 0.0,
        own_task_loss: TaskLoss | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        self.kd_losses = dict(kd_losses)
        self.temperature = temperature
        self.label_smoothing = label_smoothing
        self.own_task_loss = own_task_loss
        self.class_weights = class_weights

    @property
    def needs(self) -> set[str]:
        """Intermediate outputs of both models that the KD losses need."""
        return {need for loss in self.kd_losses.values() for need in loss.needs}

    @property
    def weights(self) -> list[float]:
        """Weight of each KD loss in the sum."""
        return [loss.weight for loss in self.kd_losses.values()]

    @property
    def names(self) -> list[str]:
        """Log keys of the losses, in the order of `BatchLosses.stacked`."""
        parts = [f"kd_loss/{name}" for name in self.kd_losses] if len(self.kd_losses) > 1 else []
        return ["task_loss", "kd_loss", *parts]

    def __call__(
        self,
        student: Mapping[str, Any],
        teacher: TeacherBatch,
        inputs: Mapping[str, Any],
        items: ItemLabels,
        num_items: Tensor | int | None = None,
        kd_weights: Tensor | None = None,
        item_weights: ItemWeights = NO_WEIGHTS,
    ) -> BatchLosses:
        """The losses of a batch.

        Args:
            student: student outputs by name.
            teacher: teacher outputs for the same batch.
            inputs: the batch, with its `labels` and, for tokens, `attention_mask`.
            items: the result of `items`.
            num_items: `[2]`, divisors of the sums over items of task loss and KD loss, or one number for both. None:
                the number of items in this batch.
            kd_weights: `[kd_losses]`, weights in the sum of KD losses. None: `weights`.
            item_weights: per-item weights of each loss.
        """
        num_task, num_kd = _divisors(items, num_items)
        loss_inputs = self.loss_inputs(student, teacher, inputs, items, num_kd, item_weights.kd)
        parts = [loss(loss_inputs).float() for loss in self.kd_losses.values()]
        weights = self.weights if kd_weights is None else kd_weights
        kd = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()
        task = self._task_loss(student, inputs, items, num_task, item_weights.task)
        return BatchLosses(task, kd, parts if len(parts) > 1 else [])

    @staticmethod
    def items(student: Mapping[str, Any], teacher: TeacherBatch, inputs: Mapping[str, Any]) -> ItemLabels:
        """The labels of a batch for each loss.

        Raises:
            ValueError: there is not exactly one label, or no logits of the teacher, per item of the student's logits.
        """
        check_label_shape(student["logits"], targets(inputs))
        check_same_logits(student["logits"], teacher)
        return item_labels(targets(inputs))

    def loss_inputs(
        self,
        student: Mapping[str, Any],
        teacher: TeacherBatch,
        inputs: Mapping[str, Any],
        items: ItemLabels,
        num_items: Tensor | int,
        weights: Tensor | None = None,
    ) -> LossInputs:
        """Inputs of the KD losses.

        Args:
            student, teacher, inputs, items: see `__call__`.
            num_items: divisor of the sums over items.
            weights: per-item weights.
        """
        labels = items.kd
        if any(loss.uses_labels for loss in self.kd_losses.values()):
            labels = torch.where(items.kd.eq(items.task), labels, teacher.logits.argmax(-1))
        mask = inputs.get("attention_mask")
        return LossInputs(student, teacher, mask, labels, num_items, self.temperature, weights)

    def _task_loss(
        self,
        student: Mapping[str, Any],
        inputs: Mapping[str, Any],
        items: ItemLabels,
        num_items: Tensor | int,
        weights: Tensor | None,
    ) -> Tensor:
        if self.own_task_loss is not None:
            labels = inputs["labels"] if SHIFTED in inputs or items.shares is not None else items.task
            return self.own_task_loss(student, labels, num_items_in_batch=num_items).float()

        def loss(logits: Tensor, weights: Tensor | None, shares: Tensor | None, labels: Tensor) -> Tensor:
            return task_loss(logits, labels, num_items, self.label_smoothing, weights, shares)

        weights = item_weights(self.class_weights, items.task, weights)
        return sum_over_chunks(loss, (student["logits"], weights, items.shares), items.task)


def _divisors(items: ItemLabels, num_items: Tensor | int | None) -> Tensor:
    """`[2]`: divisors of the task loss and the KD loss; 1 for a loss without items, which is then 0, not 0/0."""
    counts = items.counts if num_items is None else torch.as_tensor(num_items).expand(2)
    return torch.where(counts > 0, counts, 1)
