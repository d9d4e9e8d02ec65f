"""Refuse a teacher that does not fit the student or the data, before training starts."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_kd_lambda.data.columns import KEPT, TEACHER_LOGITS, own_inputs
from hf_kd_lambda.losses.functional.distributions import squared_distance_from_uniform
from hf_kd_lambda.losses.functional.label_sets import logits_of_labels
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.protocol import answers_questions

logger = logging.get_logger(__name__)


def check_apart(teacher: nn.Module, student: nn.Module) -> None:
    """Refuse a teacher that would be trained, or a student that would be frozen with it.

    Raises:
        ValueError: they share parameters.
    """
    trained = {id(parameter): name for name, parameter in student.named_parameters()}
    if shared := [trained[id(weight)] for weight in teacher.parameters() if id(weight) in trained]:
        raise ValueError(
            f"teacher and student share {len(shared)} parameter(s), such as {shared[0]}, and the teacher is frozen "
            "while the student is trained: give the student a copy (copy.deepcopy)."
        )


def check_next_tokens(teacher: PreTrainedModel, student: nn.Module) -> None:
    """Refuse a teacher whose distributions of the next token are not over the student's tokens.

    Raises:
        ValueError: it is no causal model, or its vocabulary is of another size.
    """
    if not is_causal(teacher):
        raise ValueError(
            f"the student, a {type(student).__name__}, predicts the next token, and the teacher, a "
            f"{type(teacher).__name__}, does not: give a teacher for causal language modelling."
        )
    configs: list[Any] = [teacher.config, student.config]
    sizes = [config.vocab_size for config in configs]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the teacher predicts one of {sizes[0]} tokens, the student one of {sizes[1]}, and soft targets compare "
            "them token by token: take a student and a teacher of one tokenizer. Where they have that and differ in "
            f"what their embeddings are padded to: teacher.resize_token_embeddings({sizes[1]})."
        )


def check_spans(teacher: nn.Module, student: nn.Module) -> None:
    """Refuse a teacher that does not find the start and the end of an answer, as the student does.

    Raises:
        ValueError: it has other outputs.
    """
    if not answers_questions(teacher):
        raise ValueError(
            f"the student, a {type(student).__name__}, answers questions, and the teacher, a "
            f"{type(teacher).__name__}, does not: give a teacher for extractive question answering."
        )


def check_columns(columns: Collection[str], teacher: PreTrainedModel | None, student: nn.Module) -> None:
    """Refuse a dataset from which the teacher would not get the inputs that it needs.

    Raises:
        ValueError: there is neither a teacher nor what it said, or the vocabularies differ and there is no
            `teacher_input_ids`.
    """
    if not set(KEPT).isdisjoint(columns):
        return
    if teacher is None:
        raise ValueError(
            f"teacher=None, and of the columns {', '.join(columns)} none is {TEACHER_LOGITS}: give a teacher, or add "
            "its logits to all datasets."
        )
    if own_inputs(columns) and answers_questions(student):
        raise ValueError(
            "teacher_input_ids: answers are positions in the student's tokens: leave out the teacher's columns, and "
            "take models of one tokenizer."
        )
    if own_inputs(columns) and is_causal(student):
        raise ValueError(
            "teacher_input_ids: of the next token, a teacher can only teach what it says at the student's own "
            "positions: leave out the teacher's columns, and take models of one tokenizer."
        )
    # Of some image models `vocab_size` is that of a codebook.
    read_tokens = all(getattr(model, "main_input_name", "input_ids") == "input_ids" for model in (teacher, student))
    sizes = [getattr(getattr(model, "config", None), "vocab_size", None) for model in (teacher, student)]
    if read_tokens and None not in sizes and sizes[0] != sizes[1] and not own_inputs(columns):
        raise ValueError(
            f"the teacher's vocabulary has {sizes[0]} tokens, the student's {sizes[1]}, so one cannot read the "
            "other's input_ids: tokenise for the teacher too, into columns named teacher_input_ids and so on."
        )


def check_teacher_logits(logits: Sequence[Any], labels: int) -> None:
    """Refuse logits that a dataset brings for other classes than the student's.

    Args:
        logits: of one example, `[classes]` or `[tokens, classes]`.
        labels: number of the student's outputs.

    Raises:
        ValueError: there are not as many.
    """
    *tokens, values = torch.as_tensor(logits).shape
    if values != labels:
        raise ValueError(
            f"{TEACHER_LOGITS} has {values} values {'a token' if tokens else 'an example'}, and the student {labels} "
            "output(s): give the logits of a teacher for the same labels, in their order."
        )


def check_finite_logits(examples: Dataset) -> None:
    """Refuse cached or given teacher logits that are NaN or +∞; −∞ excludes a class.

    Raises:
        ValueError: names the example.
    """
    row = 0
    for table in examples.select_columns([TEACHER_LOGITS]).with_format("arrow").iter(1000):
        logits = table[TEACHER_LOGITS].combine_chunks()
        owners = np.arange(len(logits))
        while not pa.types.is_floating(logits.type) and not pa.types.is_integer(logits.type):
            owners = owners[pc.list_parent_indices(logits).to_numpy()]
            logits = pc.list_flatten(logits)
        values = logits.to_numpy(zero_copy_only=False)
        wrong = np.isnan(values) | np.isposinf(values)
        if wrong.any():
            first = int(wrong.argmax())
            raise ValueError(
                f"{TEACHER_LOGITS} of example {row + int(owners[first])} (counted from 0) contain {values[first]}: "
                "check the teacher's weights and this example's inputs; if precision is fp16, set it to fp32 or bf16."
            )
        row += table.num_rows


def warn_of_uninformative(examples: Dataset, has_several_labels: bool = False, least: float = 0.01) -> None:
    """Warn of a teacher that gives nearly the same logits to all classes.

    Args:
        examples: with one row of teacher logits each; others are not looked at.
        has_several_labels: whether each logit is of a label of its own.
        least: mean squared distance from the uniform distribution, see `squared_distance_from_uniform`.
    """
    logits = examples.select_columns([TEACHER_LOGITS]).with_format("torch")[:2000][TEACHER_LOGITS]
    if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[-1] > 1:
        logits = logits_of_labels(logits) if has_several_labels else logits
        distance = squared_distance_from_uniform(logits.float()).mean().item()
        if distance < least:
            logger.warning(
                f"the teacher gives nearly the same logits to all classes (its mean squared distance from the uniform "
                f"distribution is {distance:.2g}, of at most 1), so that nothing can be learned from it: fine-tune it "
                "first, for a job with teacher_finetune: true."
            )
