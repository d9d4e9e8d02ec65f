"""Before the first step: resolve arguments, and fit models and data to each other."""

import copy
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging

from hf_kd_lambda.data.columns import (
    CLASS_LABELS,
    TEACHER_LOGITS,
    column_names,
    forward_parameters,
    own_inputs,
)
from hf_kd_lambda.data.first_examples import first_examples
from hf_kd_lambda.losses.class_weights import balanced_weights
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.ensemble import members_of
from hf_kd_lambda.models.labels import align_labels, own_label_names
from hf_kd_lambda.models.padding import align_pad_token
from hf_kd_lambda.models.protocol import (
    answers_questions,
    check_model,
    is_token_level,
    model_config,
    text_config,
    vocabulary_size,
)
from hf_kd_lambda.teacher.cache_format import CacheFormat
from hf_kd_lambda.teacher.checks import (
    check_apart,
    check_columns,
    check_finite_logits,
    check_logit_lengths,
    check_next_tokens,
    check_spans,
    check_teacher_logits,
)
from hf_kd_lambda.trainer.batches import Collate
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.data_checks import has_labels_of_batches
from hf_kd_lambda.trainer.sampling import sampling_strategy
from hf_kd_lambda.trainer.student_checks import check_top_logits

logger = logging.get_logger(__name__)


def check_arguments(args: Any) -> DistillationConfig:
    """The arguments, if they are a `DistillationConfig`.

    Raises:
        ValueError: they are missing, or plain TrainingArguments.
    """
    if isinstance(args, DistillationConfig):
        return args
    if isinstance(args, TrainingArguments):
        raise ValueError(
            f"args is a {type(args).__name__}: make it a DistillationConfig, which takes the same settings and those "
            "of distillation."
        )
    raise ValueError(f"args={args!r}: give a DistillationConfig, for example DistillationConfig('student').")


def own_arguments(args: DistillationConfig) -> DistillationConfig:
    """A copy of the arguments for one trainer, which changes some of them.

    The Trainer must not drop columns that the student does not take: among them are the teacher's inputs and outputs.
    Nor must it push, or a tracker by a Trainer with these arguments: they push the whole folder, with its projections
    and a teacher in it. And it writes into the settings of Accelerate.
    """
    args = copy.copy(args)
    args.remove_unused_columns = False
    args.accelerator_config = copy.deepcopy(args.accelerator_config)
    if args.push_to_hub and args.hub_strategy != HubStrategy.END:
        logger.warning(
            f"hub_strategy={str(args.hub_strategy.value)!r} would push more than the student at every save: nothing "
            "is pushed in training. Call trainer.push_to_hub() after it."
        )
    args.push_to_hub = False
    return args


def unwrapped_student(model: nn.Module) -> nn.Module:
    """The student, without the wrapper of `torch.compile`.

    Raises:
        ValueError: see `check_model`; or it has no configuration with its labels.
    """
    model = check_model(model, "student")
    if model_config(model) is None:
        raise ValueError(
            f"the student, a {type(model).__name__}, has no config with num_labels and id2label: make it a "
            "PreTrainedModel, or give it a PreTrainedConfig as config."
        )
    return model


def teacher_columns(
    datasets: Sequence[Any], collate: Collate, student: nn.Module, teacher: PreTrainedModel | None
) -> list[str]:
    """The columns that go to the teacher alone, in batches of the first example of each dataset: see `own_inputs`.

    The names of a dataset's columns would not do: streams may not know them, and a collator may add some.

    Raises:
        ValueError: see `check_columns`, which `check_datasets` calls for datasets that know their columns.
    """
    accepted = set() if teacher is None else forward_parameters(teacher)
    own: set[str] = set()
    for dataset in datasets:
        for example in first_examples(dataset, 1):
            columns = collate([example]).keys()
            if not column_names(dataset):
                _check_columns(columns, teacher, student)
            own.update(own_inputs(columns, accepted))
    return sorted(own)


def _check_columns(columns: Collection[str], teacher: PreTrainedModel | None, student: nn.Module) -> None:
    for member in [None] if teacher is None else members_of(teacher):
        check_columns(columns, cast(PreTrainedModel | None, member), student)


def align_padding(
    student: nn.Module, teacher: PreTrainedModel | None, processor: Any | None, has_own_columns: bool
) -> None:
    """Set the padding token of the tokenizer in both models; in the teacher unless it has columns of its own.

    Raises:
        ValueError: see `align_pad_token`.
    """
    if getattr(processor, "pad_token", None) is None:
        return
    teachers = [] if teacher is None or has_own_columns else members_of(teacher)
    for model in (student, *teachers):
        if model_config(model) is not None:
            align_pad_token(cast(PreTrainedModel, model), cast(PreTrainedTokenizerBase, processor))


def align_models(student: Any, teacher: PreTrainedModel | None) -> int:
    """Refuse models that do not fit each other, and bring the teacher's labels into the student's order.

    Returns:
        The number of the student's outputs: classes, 1 for regression, or the size of the vocabulary.

    Raises:
        ValueError: the models share parameters, or are for other tasks, labels or vocabularies.
    """
    causal, finds_spans = is_causal(student), answers_questions(student)
    members: list[Any] = [] if teacher is None else members_of(teacher)
    for member in members:
        check_apart(member, student)
        if causal:
            check_next_tokens(member, student)
            text_config(member).use_cache = False  # keys and values are for generation
        elif finds_spans:
            check_spans(member, student)
        elif model_config(member) is not None:  # a plain module has its classes in the order of the student's labels
            align_labels(member, own_label_names(student), student.config.problem_type, "student")
    return cast(int, vocabulary_size(student)) if causal else 2 if finds_spans else student.config.num_labels


def resolve_arguments(
    args: DistillationConfig, student: nn.Module, num_outputs: int, train_dataset: Any, processor: Any | None
) -> None:
    """Settle in place the arguments that depend on the student and on the data.

    Raises:
        ValueError: `cache_top_logits` or `cache_hidden_states` does not fit the student.
    """
    if is_causal(student) and args.cache_top_logits is None:
        args.cache_teacher = False  # to read logits of a whole vocabulary takes longer than to compute them
    check_top_logits(args, student, num_outputs)
    args.train_sampling_strategy = sampling_strategy(args, train_dataset, processor)


def check_datasets(
    datasets: Sequence[Any], student: nn.Module, teacher: PreTrainedModel | None, num_outputs: int
) -> None:
    """Refuse datasets from which the teacher's outputs cannot be had.

    Raises:
        ValueError: a dataset is empty; also see `check_columns` and `check_teacher_logits`.
    """
    for dataset in datasets:
        is_stream = not hasattr(dataset, "__len__")
        if not is_stream and not len(dataset):
            raise ValueError("train_dataset or eval_dataset has no examples: give one with examples, or None.")
        if columns := column_names(dataset):
            _check_columns(columns, teacher, student)
            if TEACHER_LOGITS in columns and not is_stream:
                check_teacher_logits(dataset[0], num_outputs)
            if TEACHER_LOGITS in columns and isinstance(dataset, Dataset):
                check_logit_lengths(dataset)
                check_finite_logits(dataset)


def class_weights(
    args: DistillationConfig,
    student: nn.Module,
    num_outputs: int,
    train_dataset: Any,
    collate: Collate | None = None,
) -> torch.Tensor | None:
    """The weights of the classes in the task loss, from the labels of the training examples; None for 1.

    Args:
        args: settings of the run.
        student: the student.
        num_outputs: the student's number of outputs.
        train_dataset: the training examples.
        collate: makes their batches; None if it is known not to change labels.

    Raises:
        ValueError: the examples cannot be counted, or have no column of labels, or batches have other labels.
    """
    if args.class_weights is None or train_dataset is None:
        return None
    column = next((name for name in CLASS_LABELS if name in column_names(train_dataset)), None)
    if column is None or not isinstance(train_dataset, Dataset):
        raise ValueError(
            f"class_weights={args.class_weights!r} counts the labels of train_dataset, which must be a "
            "datasets.Dataset with a column labels: give one, or leave class_weights out."
        )
    labels = train_dataset.with_format(None)[column][:]
    if not is_token_level(student) and any(isinstance(label, list) for label in labels):
        raise ValueError(
            f"class_weights={args.class_weights!r} needs one class an example, and column {column!r} holds lists: "
            "leave it out."
        )
    weights = balanced_weights(labels, num_outputs)
    if collate is not None and not has_labels_of_batches(train_dataset, column, collate):
        raise ValueError(
            f"class_weights={args.class_weights!r} counts the labels in column {column!r} of train_dataset, but its "
            "transform or data_collator changes them: change them with train_dataset.map, or leave class_weights out."
        )
    return weights


def cache_format(
    args: DistillationConfig,
    needs: Collection[str],
    hidden_states: tuple[bool, ...],
    num_outputs: int,
    teacher_weights: Sequence[float] | None = None,
) -> CacheFormat | None:
    """What is cached of the teacher's outputs; None where the losses need more than can be cached.

    Args:
        args: settings of the run.
        needs: outputs of the teacher other than its logits.
        hidden_states: for each of the teacher's hidden states, whether a loss needs it.
        num_outputs: outputs of student and teacher.
        teacher_weights: see `build_lambda.teacher_weights`.
    """
    if set(needs) - ({"hidden_states"} if args.cache_hidden_states else set()):
        return None
    if args.cache_top_logits is None:
        return CacheFormat(hidden_states, shares=tuple(teacher_weights or ()))
    return CacheFormat(hidden_states, args.cache_top_logits, args.temperature, num_outputs)
