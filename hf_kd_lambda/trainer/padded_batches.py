"""Whether teacher and student read the padding of a batch, as decoders do that classify by their last token."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from hf_kd_lambda.data.columns import accepted_inputs, forward_parameters, own_inputs, teacher_inputs
from hf_kd_lambda.data.first_examples import first_examples
from hf_kd_lambda.models.ensemble import members_of
from hf_kd_lambda.models.padding import ModelBatch, padding_difference
from hf_kd_lambda.models.protocol import model_config, model_device

logger = logging.get_logger(__name__)

_EXAMPLES = 32  # of which the shortest and the longest are compared


def check_padded_batches(
    student: nn.Module,
    teacher: nn.Module | None,
    examples: Any,
    collate: Callable[[list[Any]], dict[str, Any]],
) -> None:
    """Compare the logits of a short and a long example in one batch with those of each alone.

    Args:
        student, teacher: on any device; nothing of them changes.
        examples: training examples.
        collate: from examples to a batch.

    Raises:
        ValueError: a model reads padding, since its `pad_token_id` is another than the batch has. Where the cause is
            not known, there is a warning.
    """
    if "input_ids" not in forward_parameters(student):
        return
    few = [row for row in first_examples(examples, _EXAMPLES) if isinstance(row, Mapping) and "input_ids" in row]
    rows = sorted(few, key=lambda row: len(row["input_ids"]))
    if not rows or len(rows[0]["input_ids"]) == len(rows[-1]["input_ids"]):
        return
    pair = [rows[-1], rows[0]]
    alone, padded = [collate([row]) for row in pair], collate(pair)
    _check("student", student, [_of_student(student, batch) for batch in alone], _of_student(student, padded))
    for member in [] if teacher is None else members_of(teacher):
        _check("teacher", member, [_of_teacher(member, batch) for batch in alone], _of_teacher(member, padded))


def _check(who: str, model: nn.Module, alone: list[ModelBatch], padded: ModelBatch) -> None:
    if padded.mask is None or "input_ids" not in padded.inputs or model_device(model).type == "meta":
        return
    if not _have_same_tokens(alone, padded):
        return
    difference = padding_difference(model, who, alone, padded)
    if not difference:
        return
    config = model_config(model)
    known = None if config is None else getattr(config.get_text_config(), "pad_token_id", None)
    used = padded.inputs["input_ids"][~padded.mask.bool()].unique().tolist()
    what = (
        f"the {who}, a {type(model).__name__}, gives an example other logits in a padded batch than alone (by "
        f"{difference:.2g}), so that it reads the padding"
    )
    if config is not None and used not in ([], [known]):
        raise ValueError(
            f"{what}: batches are padded with token {', '.join(map(str, used))}, and its config.pad_token_id is "
            f"{known}: set that to the tokenizer's pad_token_id, or give the tokenizer as processing_class."
        )
    logger.warning(f"{what}: what it predicts depends on the other examples of a batch. Let it use attention_mask.")


def _have_same_tokens(alone: list[ModelBatch], padded: ModelBatch) -> bool:
    """Whether the batches differ in nothing but padding, as they do where a collator draws random numbers."""
    if any(len(batch.inputs["input_ids"]) != 1 for batch in alone) or len(padded.inputs["input_ids"]) != len(alone):
        return False  # the collator drops or merges rows
    return all(torch.equal(_tokens(batch, 0), _tokens(padded, row)) for row, batch in enumerate(alone))


def _tokens(batch: ModelBatch, row: int) -> Tensor:
    assert batch.mask is not None
    return batch.inputs["input_ids"][row][batch.mask[row].bool()]


def _of_student(student: nn.Module, batch: Mapping[str, Any]) -> ModelBatch:
    return ModelBatch(accepted_inputs(student, batch), batch.get("attention_mask"))


def _of_teacher(teacher: nn.Module, batch: Mapping[str, Any]) -> ModelBatch:
    accepted = forward_parameters(teacher)
    mask = "teacher_attention_mask" if own_inputs(batch, accepted) else "attention_mask"
    return ModelBatch(teacher_inputs(batch, accepted), batch.get(mask))
