"""The batches of a run: labels where they are missing, in the form that the losses take, and the teacher's columns."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from hf_kd_lambda.data.collators import TOKEN_INPUTS
from hf_kd_lambda.data.columns import forward_parameters
from hf_kd_lambda.data.label_collators import LabelSets, ShiftedLabels, SpanLabels, UnlabelledExamples
from hf_kd_lambda.losses.functional.labels import with_labels
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.protocol import answers_questions, is_multi_label, is_token_level
from hf_kd_lambda.teacher.collator import ColumnCollator

Collate = Callable[[list[Any]], dict[str, Any]]


def training_batch(batch: Mapping[str, Any], student: nn.Module) -> dict[str, Any]:
    """A batch of the student's, with labels: see `with_labels`."""
    config = cast(Any, student).config
    label_sets = config.num_labels if is_multi_label(student) else 0
    return with_labels(batch, is_token_level(student), label_sets)


def build_collator(
    collate: Collate, student: nn.Module, teacher: PreTrainedModel | None, drops_columns: bool
) -> ColumnCollator:
    """The collator of a run: the given one, with labels where they are missing and cached teacher outputs.

    Args:
        collate: from examples to a batch.
        student, teacher: name the columns that are inputs.
        drops_columns: whether `collate` gets these columns alone.
    """
    if is_causal(student):
        collate = ShiftedLabels(collate)
    elif answers_questions(student):
        collate = SpanLabels(collate)
    elif is_multi_label(student):
        collate = LabelSets(collate, cast(Any, student).config.num_labels)
    else:
        collate = UnlabelledExamples(collate, cast(Any, student).config.num_labels, is_token_level(student))
    # Without a teacher too, a collator may pad its tokens, and digests of cached outputs are of them.
    of_teacher = forward_parameters(student) | TOKEN_INPUTS if teacher is None else forward_parameters(teacher)
    inputs = {ANSWER_MASK} | forward_parameters(student) | of_teacher
    return ColumnCollator(collate, inputs if drops_columns else None, of_teacher if drops_columns else None)
