"""Refuse a student whose own loss the task loss would replace without a word."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers.utils import logging

from hf_kd_lambda.data.columns import accepted_inputs, takes_labels
from hf_kd_lambda.data.first_examples import first_examples
from hf_kd_lambda.losses.functional import IGNORED, task_loss
from hf_kd_lambda.losses.functional.items import count_items
from hf_kd_lambda.losses.functional.labels import SHIFTED, next_labels
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK, SPAN_LABELS, logits_of_items
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.protocol import (
    answers_questions,
    as_model_output,
    is_multi_label,
    is_token_level,
    model_device,
)
from hf_kd_lambda.trainer.batches import training_batch
from hf_kd_lambda.utils.evaluation_mode import evaluation_mode

logger = logging.get_logger(__name__)

EXAMPLES = 8  # with different labels, since one label would hide class weights; of sequences of labels, 1
ROUNDING = 5e-5  # relative, of two losses of the same logits that differ by rounding in fp32


def check_own_loss(
    student: nn.Module, examples: Any, collate: Callable[[list[Any]], dict[str, Any]], num_outputs: int
) -> None:
    """Compare the loss that the student's `forward` computes with the task loss, on a few examples.

    `Trainer` minimises what `forward` returns as `loss`; here, cross-entropy or the squared error of its logits is
    minimised. A student that takes neither `labels` nor `start_positions`, or returns no loss, has none of its own.

    What it cannot see: a loss that agrees with the task loss on these examples, such as one of class weights where
    all logits are equal (a head of zeros), or one that changes with the step; a loss of logits with −∞, or a loss
    that fails on these examples (both are warned of); and losses that are not returned as `loss`.

    Args:
        student: on any device. Only `problem_type` of its config changes: Transformers' `forward` sets it where it is
            None, as in plain training.
        examples: training examples.
        collate: from examples to a batch.
        num_outputs: the student's number of outputs.

    Raises:
        ValueError: the two losses differ, the task loss is not finite, or the student adds a loss of its router.
    """
    device, finds_spans = model_device(student), answers_questions(student)
    if not (takes_labels(student) or finds_spans) or device.type == "meta":
        return
    are_sequences = is_token_level(student) or is_causal(student) or finds_spans
    few = first_examples(examples, 1 if are_sequences else EXAMPLES)
    if not few:
        return
    batch = training_batch(collate(few), student)
    inputs = accepted_inputs(student, batch)
    of_items: dict[str, Tensor] = {}
    if finds_spans:
        labels, items = _ends(batch)
        of_items[ANSWER_MASK] = torch.ones_like(batch["input_ids"])  # its own loss has all tokens as classes
    else:
        has_sets = is_multi_label(student)
        made, items = _labels(batch, 2 if has_sets else num_outputs)
        labels = {"labels": made.float() if has_sets else made}
    inputs |= labels
    outputs = _outputs(student, send_to_device(inputs, device))
    own = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0] if isinstance(outputs, tuple) else None
    if not isinstance(own, Tensor) or own.dim() > 0:
        return
    outputs = as_model_output(outputs, student, "student")
    if outputs.get("aux_loss") is not None:
        raise ValueError(
            f"the student, a {type(student).__name__}, adds a loss of its router to that of the labels, which would "
            "be left out: set output_router_logits to false in its config, or add router_aux_loss_coef * "
            "outputs.aux_loss in compute_loss_func, which needs another lambda_rule than trust."
        )
    items = items.to(device)
    logits = logits_of_items(outputs.logits, {**send_to_device(of_items, device), "labels": items})
    if items.shape != logits.shape[:-1] or not count_items(items):
        return  # the first step refuses that shape; a mean over no item is meaningless
    if logits.isneginf().any():
        logger.warning(
            f"the student, a {type(student).__name__}, excludes classes by logits of −∞, so that the loss that it "
            "computes from labels could not be compared with the task loss, which is what is minimised."
        )
        return
    ours = task_loss(logits, items, count_items(items))
    if not ours.isfinite():
        raise ValueError(
            f"the student, a {type(student).__name__}, gives a loss of {ours:g} on the first examples: check its "
            "weights, which may be NaN or infinite, and these examples."
        )
    tolerance = max(ROUNDING, 4 * torch.finfo(outputs.logits.dtype).eps)
    if not torch.isclose(own.float(), ours.float(), rtol=tolerance, atol=1e-7):
        kind = "cross-entropy" if num_outputs > 1 else "the squared error"
        raise ValueError(
            f"the student, a {type(student).__name__}, computes a loss of its own, which would be replaced: it is "
            f"{own:.4g} where {kind} is {ours:.4g}. Give it as compute_loss_func(outputs, labels, "
            "num_items_in_batch), with another lambda_rule than trust, or take a student without it."
        )


@torch.no_grad()
def _outputs(student: nn.Module, inputs: dict[str, Any]) -> Any:
    """The student's outputs in evaluation mode, where no random number is drawn; None where it fails."""
    try:
        with evaluation_mode(student):
            return student(**inputs)
    except Exception as error:  # whatever the student's code raises
        logger.warning(
            f"the loss that the student, a {type(student).__name__}, computes from labels fails on a batch ({error}), "
            "so that it could not be compared with the task loss, which is what is minimised."
        )
        return None


def _ends(batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
    """Answers from the first to the last token, for the student's `forward` and for the task loss."""
    examples, length = batch["input_ids"].shape
    items = torch.tensor([0, length - 1], device=batch["input_ids"].device).expand(examples, 2)
    return dict(zip(SPAN_LABELS, items.unbind(-1), strict=True)), items


def _labels(batch: dict[str, Any], num_classes: int) -> tuple[Tensor, Tensor]:
    """Labels for the student's `forward`, and the labels of the items of the task loss that are the same.

    Those of a causal model are its own. Others are made, so that weights of classes and smoothing show in the loss:
    class 0 in the first half, as the mean over equally many labels of all classes is blind to smoothing.
    """
    labels = batch["labels"]
    if SHIFTED in batch:
        return labels, next_labels(labels)
    if labels.is_floating_point() and labels.dim() > 1:
        labels = labels[:, 0]  # one class instead of shares
    number = torch.arange(labels.numel(), device=labels.device).reshape(labels.shape)
    if num_classes == 1:
        return number.float(), number.float()
    classes = number % num_classes * (number >= labels.numel() // 2)
    if labels.dim() > 1:  # of tokens, not all of which have a label
        classes = classes.masked_fill(labels.eq(IGNORED), IGNORED)
    return classes, classes
