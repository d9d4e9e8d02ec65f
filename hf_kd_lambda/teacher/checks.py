"""Checks before training that the teacher matches the student and the data."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_kd_lambda.data.columns import (
    TEACHER_LOGITS,
    TEACHER_OUTPUTS,
    TEACHER_PREFIX,
    column_names,
    flattened,
    forward_parameters,
    own_inputs,
    prefixed,
)
from hf_kd_lambda.data.first_examples import first_examples
from hf_kd_lambda.losses.functional.distributions import LEAST_DISTANCE, squared_distance_from_uniform
from hf_kd_lambda.losses.functional.label_sets import logits_of_labels
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.protocol import answers_questions, is_token_level, vocabulary_size
from hf_kd_lambda.teacher.row_digest import collated, row_digests

logger = logging.get_logger(__name__)

_COLLATED = 16  # examples, of which a collator that sorts by length hardly finds all equally long


def check_apart(teacher: nn.Module, student: nn.Module) -> None:
    """Check that teacher and student share no parameters: the teacher is frozen, the student is trained.

    Raises:
        ValueError: they share parameters.
    """
    trained = {id(parameter): name for name, parameter in student.named_parameters()}
    if shared := [trained[id(weight)] for weight in teacher.parameters() if id(weight) in trained]:
        raise ValueError(
            f"teacher and student share {len(shared)} parameter(s), such as {shared[0]}, but the teacher is frozen "
            "and the student is trained: pass a copy (copy.deepcopy) of the shared module."
        )


def check_next_tokens(teacher: PreTrainedModel, student: nn.Module) -> None:
    """Check that the teacher predicts the next token over the student's vocabulary.

    Raises:
        ValueError: the teacher is not a causal model, or its vocabulary size differs.
    """
    if not is_causal(teacher):
        raise ValueError(
            f"the student, a {type(student).__name__}, is a causal language model, but the teacher, a "
            f"{type(teacher).__name__}, is not: use a causal language model as teacher."
        )
    sizes = [vocabulary_size(teacher), vocabulary_size(student)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the teacher's vocabulary has {sizes[0]} tokens, the student's {sizes[1]}, but KD losses compare their "
            "logits token by token: use a student and a teacher with the same tokenizer. If only the padding of their "
            f"embeddings differs, call teacher.resize_token_embeddings({sizes[1]})."
        )


def check_spans(teacher: nn.Module, student: nn.Module) -> None:
    """Check that the teacher predicts start and end of an answer, like the student.

    Raises:
        ValueError: the teacher has other outputs.
    """
    if not answers_questions(teacher):
        raise ValueError(
            f"the student, a {type(student).__name__}, is for question answering, but the teacher, a "
            f"{type(teacher).__name__}, is not: use a teacher for extractive question answering."
        )


def check_columns(columns: Collection[str], teacher: PreTrainedModel | None, student: nn.Module) -> None:
    """Check that a dataset has the teacher's outputs, or the inputs that the teacher needs.

    Raises:
        ValueError: there are neither a teacher nor its logits; the vocabularies differ and there is no
            `teacher_input_ids`; or there is one, but the task needs the same tokens for both models; or the teacher
            has own inputs without its main one.
    """
    if not {TEACHER_LOGITS, TEACHER_OUTPUTS}.isdisjoint(columns):
        return
    if teacher is None:
        raise ValueError(
            f"teacher=None, but the dataset has no column {TEACHER_LOGITS}, only {', '.join(columns)}: give a "
            "teacher, or add its logits to all datasets."
        )
    accepted = forward_parameters(teacher)
    own, main = own_inputs(columns, accepted), TEACHER_PREFIX + getattr(teacher, "main_input_name", "input_ids")
    if own and main not in columns and main.removeprefix(TEACHER_PREFIX) in accepted:
        raise ValueError(
            f"columns {', '.join(own)} are the teacher's own inputs, which replace all of the student's, but {main} "
            "is missing: add it, or rename them."
        )
    if not own and (others := prefixed(columns)):
        logger.warning(f"columns {', '.join(others)} are no inputs of the teacher and are not used.")
    needs_same_tokens = {
        "question answering": (answers_questions(student), "answers are token positions"),
        "token classification": (is_token_level(student), "their logits are compared token by token"),
        "language models": (is_causal(student), "their logits are compared at every position"),
    }
    for task, (applies, reason) in needs_same_tokens.items():
        if own and applies:
            raise ValueError(
                f"teacher_input_ids: for {task}, both models need the same tokens, because {reason}: remove the "
                "teacher's columns, and use models with the same tokenizer."
            )
    # For some image models, `vocab_size` is the size of a codebook.
    read_tokens = all(getattr(model, "main_input_name", "input_ids") == "input_ids" for model in (teacher, student))
    of_teacher, of_student = vocabulary_size(teacher), vocabulary_size(student)
    if read_tokens and of_teacher and of_student and of_teacher != of_student and not own:
        larger, size = ("teacher", of_student) if of_teacher > of_student else ("student", of_teacher)
        raise ValueError(
            f"the teacher's vocabulary has {of_teacher} tokens, the student's {of_student}, so they cannot use the "
            "same input_ids: tokenise for the teacher too, into columns teacher_input_ids and so on, and give "
            "data_collator=DistillationCollator(tokenizer, teacher_tokenizer). If only the padding of their "
            f"embeddings differs, call {larger}.resize_token_embeddings({size}) instead."
        )


def check_collator(
    examples: Any, collate: Callable[[list[Any]], dict[str, Any]], teacher: PreTrainedModel | None
) -> None:
    """Check that a collator keeps the teacher's own inputs, and the order of rows whose teacher logits are given.

    A collator that changes examples at random passes, as its order cannot be seen.

    Args:
        examples: a dataset.
        collate: makes a batch of them.
        teacher: None if there is none.

    Raises:
        ValueError: it drops all own inputs, so that the teacher would get the student's; or it changes the order.
    """
    columns, accepted = column_names(examples), set() if teacher is None else forward_parameters(teacher)
    own = own_inputs(columns, accepted)
    if not own and TEACHER_LOGITS not in columns:
        return
    few = first_examples(examples, _COLLATED)
    batch, digests = collated(collate, few)
    if own and not own_inputs(batch, accepted):
        raise ValueError(
            f"data_collator drops the columns {', '.join(own)}, so that the teacher would get the student's inputs: "
            "let it keep them, as DistillationCollator(tokenizer, teacher_tokenizer) does, or remove them from the "
            "dataset."
        )
    if TEACHER_LOGITS in columns and not digests and row_digests(batch) == row_digests(collate(few)):
        raise ValueError(
            f"data_collator sorts, drops or merges rows, so the batch does not match the column {TEACHER_LOGITS}: let "
            "it return one row for each example, in the same order."
        )


def check_teacher_logits(example: Mapping[str, Any], labels: int) -> None:
    """Check that the teacher logits in a dataset have as many classes as the student.

    Args:
        example: one of a dataset with teacher logits, `[classes]` or `[tokens, classes]`.
        labels: number of student outputs.

    Raises:
        ValueError: the numbers differ, or the dataset's format hides the logits.
    """
    if TEACHER_LOGITS not in example:
        raise ValueError(
            f"column {TEACHER_LOGITS} is in the dataset, but not in its examples, because set_format or "
            "with_transform leaves it out: let it through, or remove the column to run the teacher at each step."
        )
    *tokens, values = torch.as_tensor(example[TEACHER_LOGITS]).shape or (0,)
    if values != labels:
        raise ValueError(
            f"{TEACHER_LOGITS} has {values} values per {'token' if tokens else 'example'}, but the student has "
            f"{labels} output(s): give the logits of a teacher with the same labels in the same order."
        )


def check_logit_lengths(examples: Dataset) -> None:
    """Check that all rows of teacher logits in a dataset have the length of the first.

    Raises:
        ValueError: one is missing, shorter or longer; the message names the example.
    """
    row, first = 0, None
    for table in examples.select_columns([TEACHER_LOGITS]).with_format("arrow").iter(1000):
        column = table[TEACHER_LOGITS].combine_chunks()
        example_of, lists = np.arange(len(column)), column
        while pa.types.is_nested(lists.type.value_type):
            example_of, lists = example_of[pc.list_parent_indices(lists).to_numpy()], pc.list_flatten(lists)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        first = lengths[0] if first is None else first
        missing = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
        wrong = np.concatenate([missing, example_of[lengths != first]])
        if len(wrong):
            raise ValueError(
                f"{TEACHER_LOGITS} of example {row + wrong.min()} (counted from 0) are not {first} values, as those "
                "of the first example: give every example the teacher's logits of all classes."
            )
        row += len(column)


def check_finite_logits(examples: Dataset) -> None:
    """Check that no teacher logit in a dataset is NaN or +∞; −∞ is valid and excludes a class.

    Raises:
        ValueError: a logit is; the message names the example.
    """
    row = 0
    for table in examples.select_columns([TEACHER_LOGITS]).with_format("arrow").iter(1000):
        example_of, logits = flattened(table[TEACHER_LOGITS].combine_chunks())
        values = logits.to_numpy(zero_copy_only=False)
        wrong = np.isnan(values) | np.isposinf(values)
        if wrong.any():
            first = int(wrong.argmax())
            raise ValueError(
                f"{TEACHER_LOGITS} of example {row + int(example_of[first])} (counted from 0) contain "
                f"{values[first]}: check the teacher's weights and this example's inputs; if precision is fp16, set "
                "it to fp32 or bf16."
            )
        row += table.num_rows


def warn_of_uninformative(examples: Dataset, has_several_labels: bool = False) -> None:
    """Warn if the teacher gives nearly the same logits to all classes.

    Args:
        examples: a dataset with teacher logits `[classes]` per example; logits of tokens are not checked.
        has_several_labels: whether every logit belongs to a separate binary label.
    """
    logits = examples.select_columns([TEACHER_LOGITS]).with_format("torch")[:2000][TEACHER_LOGITS]
    if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[-1] > 1:
        logits = logits_of_labels(logits) if has_several_labels else logits
        distance = squared_distance_from_uniform(logits.float()).mean().item()
        if distance < LEAST_DISTANCE:
            logger.warning(
                f"the teacher gives nearly the same logits to all classes (its mean squared distance from the uniform "
                f"distribution is {distance:.2g}, of at most 1), so the student can learn little from it: fine-tune "
                "the teacher, for longer if it was fine-tuned (in a settings file: teacher_finetune, teacher_epochs)."
            )
