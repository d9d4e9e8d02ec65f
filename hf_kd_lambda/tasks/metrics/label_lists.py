"""Metrics of several labels a text, and of soft labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from hf_kd_lambda.losses.functional import task_loss
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.losses.functional.spans import logits_of_items
from hf_kd_lambda.tasks.metrics.glue import compute_metrics_for
from hf_kd_lambda.utils.first_output import first_output


def multi_label_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Micro and macro F1 of labels whose logit is above 0, without missing ones; `score` is their mean.

    Args:
        evaluation: logits `[texts, labels]`, and 1, 0 or a negative number, for missing, of each.
    """
    return f1_scores(first_output(evaluation.predictions) > 0, np.asarray(evaluation.label_ids))


def f1_scores(found: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Micro F1, over all labels together, and macro F1, the mean over labels; F1 is 0 of a label that never occurs.

    Args:
        found: boolean, `[texts, labels]`.
        labels: the same shape, 1, 0 or negative for missing.
    """
    known = labels >= 0
    right = (found & (labels == 1) & known).sum(axis=0)
    total = (found & known).sum(axis=0) + (labels == 1).sum(axis=0)
    micro = 2 * right.sum() / max(total.sum(), 1)
    macro = (2 * right / np.maximum(total, 1)).mean()
    return {"f1_micro": float(micro), "f1_macro": float(macro), "score": float((micro + macro) / 2)}


def chance_of_sets(labels: np.ndarray) -> float:
    """The score of all labels for each text."""
    return f1_scores(np.ones_like(labels, dtype=bool), labels)["score"]


def soft_label_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Accuracy and macro F1, as of own data, with the class of the largest share as label."""
    classes = np.asarray(evaluation.label_ids).argmax(axis=-1)
    return compute_metrics_for(None, is_regression=False)(EvalPrediction(evaluation.predictions, classes))


def label_list_loss(
    outputs: Mapping[str, Any],
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The task loss of lists of labels, as `compute_loss_func` of a plain Trainer.

    Args:
        outputs: with logits `[texts, labels]`.
        labels: `[texts, labels]`: 1, 0 or -100 in integers, or shares in floats.
        num_items_in_batch: number of labels that are not -100; None for those of this batch.
        label_smoothing: see `task_loss`.
    """
    items = item_labels(labels)
    count = items.counts[0].clamp(min=1)
    if num_items_in_batch is not None:  # of soft labels, the Trainer counts each share
        count = torch.as_tensor(num_items_in_batch) / (1 if items.shares is None else labels.shape[-1])
    logits = logits_of_items(outputs["logits"], {"labels": labels})
    return task_loss(logits, items.task, count, label_smoothing, shares=items.shares)
