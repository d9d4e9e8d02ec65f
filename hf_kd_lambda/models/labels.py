"""The outputs of a classifier: their names, and their order, which is that of the data.

`label_names` are the names of the classes in the data's order; None means regression (one output).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.utils.names import in_order

logger = logging.get_logger(__name__)

LIKE_TEACHER = "Load the student with the teacher's labels: num_labels and id2label as in teacher.config"


class OtherLabelsError(ValueError):
    """A classifier was trained for another problem or other labels; the message adds a fix to the difference."""

    def __init__(self, difference: str, whose: str, in_python: str) -> None:
        fix = "Use a checkpoint for this task, or fine-tune the teacher first with teacher_finetune: true"
        super().__init__(f"{difference}. {fix if whose == 'data' else in_python}.")
        self.difference = difference


def align_labels(
    model: PreTrainedModel, label_names: list[str] | None, problem_type: str | None = None, whose: str = "data"
) -> None:
    """Reorder a classifier's outputs and label names to the data's order, in place.

    Args:
        model: the classifier.
        label_names: of the data.
        problem_type: of the data: `MULTI_LABEL` for several labels per example; None for one class, or a number.
        whose: whose names these are, `data` or `student`, for messages.

    Raises:
        ValueError: see `label_permutation`.
    """
    permutation = label_permutation(model, label_names, problem_type, whose)
    if permutation is not None:
        permute_head(model, permutation)
    keep_own = label_names is not None and _are_generic(label_names)
    set_labels(model.config, _own_names(model) if keep_own else label_names, problem_type)


def label_permutation(
    teacher: PreTrainedModel, label_names: list[str] | None, problem_type: str | None = None, whose: str = "data"
) -> list[int] | None:
    """The teacher's output column for each label of the data; None if the order is already the same.

    Names are compared case-insensitively. If one side has only generic names (`LABEL_0` or `0`) that the other lacks,
    the same order is assumed, with a warning; but not of a teacher whose names are other numbers, such as 1 to 5: a
    number of the data could then be a name or a place.

    Raises:
        OtherLabelsError: the teacher has another problem type, number of labels or set of labels.
    """
    who = _name(teacher)
    problem = _problem_type(label_names, problem_type)
    if teacher.config.problem_type not in (None, problem):
        in_python = f"Load it with problem_type={problem!r} and train it"
        if teacher.config.problem_type == MULTI_LABEL:
            in_python = (
                f"If an example can have several labels, set problem_type={MULTI_LABEL!r} in the student's config"
            )
        raise OtherLabelsError(
            f"{who} was trained for {teacher.config.problem_type}, but the {whose} is for {problem}", whose, in_python
        )
    own_names = _own_names(teacher)
    if len(own_names) != (1 if label_names is None else len(label_names)):
        raise OtherLabelsError(
            f"{who} has {len(own_names)} output(s), {own_names}; the {whose} needs "
            f"{label_names or 'one, for regression'}",
            whose,
            LIKE_TEACHER,
        )
    if label_names is None or own_names == label_names:
        return None
    permutation = permutation_of(own_names, label_names)
    if permutation is None:
        if _are_generic(own_names) or (_are_generic(label_names) and not any(map(_is_integer, own_names))):
            unnamed = who if _are_generic(own_names) else f"the {whose}"
            fix = "write names in the data"
            if unnamed != "the data":
                fix = f"name the classes of {unnamed} in id2label of its config"
            order = f"assuming the same order. If it is another, {fix}"
            logger.warning("%s has the labels %s, the %s %s: %s.", who, own_names, whose, label_names, order)
            return None
        in_data = whose == "data" and _are_generic(label_names)
        fix = ": if they mean the same classes, write the model's in the data" if in_data else ""
        message = f"{who} has the labels {own_names}, the {whose} {label_names}{fix}"
        raise OtherLabelsError(message, whose, LIKE_TEACHER)
    return None if permutation == list(range(len(own_names))) else permutation


def names_of_numbers(label_names: list[str] | None, of_teachers: Iterable[Sequence[str]]) -> list[str] | None:
    """The names of the classes; where they are only numbers, those that the first teacher with others has for them.

    All models are then brought into the order of these names; else each would take its own order for the numbers'.
    Names that are other numbers are left to `label_permutation`.

    Args:
        label_names: of the data.
        of_teachers: the teachers' own names, in the order of their outputs.
    """
    if label_names is None or not _are_generic(label_names):
        return label_names
    for names in of_teachers:
        if len(names) != len(label_names) or any(map(_is_integer, names)) or _are_generic(names):
            continue
        if permutation_of(names, label_names) is None:
            order = in_order(names)
            logger.warning("the labels of the data are numbers, and taken in the order of the teacher: %s.", order)
            return [*names]
    return label_names


def permutation_of(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """The place of each wanted name among the names, in any case of letters; None if they are not the same names."""
    own, others = ([name.casefold() for name in given] for given in (names, wanted))
    if sorted(own) != sorted(others) or len(set(own)) < len(own):
        return None
    return [own.index(name) for name in others]


def own_label_names(model: PreTrainedModel) -> list[str] | None:
    """A classifier's label names in the order of its outputs; None for one output, a regression."""
    names = _own_names(model)
    return names if len(names) > 1 else None


def permute_head(model: PreTrainedModel, permutation: list[int]) -> None:
    """Reorder the outputs of a classifier and their names, in place.

    Args:
        model: the classifier.
        permutation: the old column of each output in the new order.

    Raises:
        ValueError: the head is quantised or has adapters of its own, or the model has none or two.
    """
    check_one_head(model)
    name, head = output_layer(model)
    saved = [other for other, _ in model.named_modules() if other.rpartition(".")[0] == name.rpartition(".")[0]]
    if "lora_" in name or (".modules_to_save." in name and len(saved) > 1):
        raise ValueError(
            f"{_name(model)} has adapters in its head, which cannot be reordered to the labels of the data: merge "
            "them first, with merge_and_unload()."
        )
    # bitsandbytes packs 4-bit weights, and 8-bit ones have a scale for each row.
    if head.weight.shape[0] != len(permutation) or not head.weight.is_floating_point():
        raise ValueError(
            f"the quantised head of a {type(model).__name__} cannot be reordered to the labels of the data: permute "
            "its outputs before it is quantised, or leave the head out (llm_int8_skip_modules)."
        )
    with torch.no_grad():
        head.weight.copy_(head.weight[permutation])
        if head.bias is not None:
            head.bias.copy_(head.bias[permutation])
    own_names = _own_names(model)
    set_labels(model.config, [own_names[column] for column in permutation], model.config.problem_type)


def _problem_type(label_names: list[str] | None, problem_type: str | None) -> str:
    if label_names is not None and problem_type == MULTI_LABEL:
        return MULTI_LABEL
    return "regression" if label_names is None else "single_label_classification"


def set_labels(config: PreTrainedConfig, label_names: list[str] | None, problem_type: str | None = None) -> None:
    """Set the names and the number of a model's outputs in its configuration.

    Args:
        config: the model's configuration.
        label_names, problem_type: see `align_labels`.
    """
    names = ["LABEL_0"] if label_names is None else label_names
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = _problem_type(label_names, problem_type)


def _name(model: PreTrainedModel) -> str:
    """The checkpoint of a model for messages, or its class."""
    return f"{getattr(model, 'name_or_path', None) or type(model).__name__!r}"


def _own_names(model: PreTrainedModel) -> list[str]:
    return [str(model.config.id2label[index]) for index in range(model.config.num_labels)]


def _is_integer(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _are_generic(names: Sequence[str]) -> bool:
    indices = [str(index) for index in range(len(names))]
    return [*names] in (indices, [f"LABEL_{index}" for index in indices])


def output_layer(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """Name and module of the output layer: the last linear layer of the right size outside the encoder.

    Raises:
        ValueError: there is none.
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(f"{model.base_model_prefix}.")
    ]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no linear layer with {model.config.num_labels} outputs after its encoder, so "
            "it is not supported as teacher or student: choose another architecture."
        )
    return layers[-1]


def check_one_head(model: PreTrainedModel) -> None:
    """Refuse to change the labels of a model that averages two heads: SwiftFormer, and distilled DeiTs and LeViTs.

    Raises:
        ValueError: it is one.
    """
    kind = type(model).__name__
    if kind.endswith("WithTeacher") or hasattr(model, "dist_head"):
        raise ValueError(
            f"{_name(model)} is a {kind}, which has two heads, of which one would not get the labels of the data: "
            "take a model with one, or one that was trained for these labels in their order."
        )
