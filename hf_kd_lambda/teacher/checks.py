"""Refuse a teacher that does not fit the student or the data, before training starts."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_kd_lambda.data.columns import KEPT, TEACHER_LOGITS, own_inputs
from hf_kd_lambda.models.causal import is_causal


def check_apart(teacher: nn.Module, student: nn.Module) -> None:
    """Refuse a teacher that would be trained, or a student that would be frozen with it.

    Raises:
        ValueError: they share parameters.
    """
    taught = {id(each): name for name, each in student.named_parameters()}
    if shared := [taught[id(each)] for each in teacher.parameters() if id(each) in taught]:
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
    if own_inputs(columns) and is_causal(student):
        raise ValueError(
            "teacher_input_ids: of the next token, a teacher can only teach what it says at the student's own "
            "positions: leave out the teacher's columns, and take models of one tokenizer."
        )
    # Of some image models `vocab_size` is that of a codebook.
    read_tokens = all(getattr(model, "main_input_name", "input_ids") == "input_ids" for model in (teacher, student))
    sizes = [getattr(model.config, "vocab_size", None) for model in (teacher, student)]
    if read_tokens and sizes[0] != sizes[1] and not own_inputs(columns):
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
