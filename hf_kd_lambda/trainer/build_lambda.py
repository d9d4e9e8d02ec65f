"""The balancer of a trainer: from its arguments, models and data to λ's state before the first step."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from hf_kd_lambda.balancing.balancer import Balancer
from hf_kd_lambda.balancing.number_trust import Unit, unit_of
from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.data.columns import TEACHER_LOGITS, column_names, label_columns
from hf_kd_lambda.gradients.layer_groups import layer_groups
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.objective import Objective
from hf_kd_lambda.models.ensemble import Ensemble
from hf_kd_lambda.models.protocol import answers_questions, is_multi_label
from hf_kd_lambda.teacher.cache_format import teacher_weights_in
from hf_kd_lambda.trainer.batches import Collate
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.data_checks import has_labels_of_batches


def item_classes(model: nn.Module, num_outputs: int) -> int:
    """Number of classes of an item: 1 for regression, 2 for a label that is absent or present, 0 if it varies.

    Args:
        model: the student.
        num_outputs: the student's number of outputs.
    """
    if answers_questions(model):
        return 0  # positions of the text
    return 2 if is_multi_label(model) else num_outputs


def label_unit(args: DistillationConfig, classes: int, examples: Any, collate: Collate) -> Unit | None:
    """The unit in which `trust` measures the numbers of a regression; None of others, and where labels are not known.

    Args:
        args: settings of the run.
        classes: see `item_classes`.
        examples: the training examples.
        collate: makes their batches.
    """
    columns = label_columns(examples)
    if "trust_ratio" not in args.rule.needs or classes != 1 or len(columns) != 1:
        return None
    numbers = examples.select_columns(columns).with_format("arrow")[:][columns[0]]
    if not (pa.types.is_integer(numbers.type) or pa.types.is_floating(numbers.type)):
        return None  # a collator makes numbers of them
    if not has_labels_of_batches(examples, columns[0], collate):
        return None
    labels = numbers.cast(pa.float64()).to_numpy()
    known = labels[np.isfinite(labels) & (labels != IGNORED)]
    return unit_of(known) if len(known) else None


def teacher_weights(
    args: DistillationConfig, teacher: nn.Module | None, datasets: Sequence[Any], classes: int
) -> list[float] | None:
    """Weights of several teachers, if every one gets its own reliability and weight for each item; else None.

    Without trust, for regression, and where only the largest logits are cached, the teachers are one: their mean.

    Args:
        args: settings of the run.
        teacher: the teacher; several as an `Ensemble`.
        datasets: datasets of the run; logits in their columns take precedence over the teacher's.
        classes: see `item_classes`.
    """
    if "trust_ratio" not in args.rule.needs or classes == 1 or args.cache_top_logits is not None:
        return None
    of_teacher = teacher.weights if isinstance(teacher, Ensemble) else None
    weights = [teacher_weights_in(data) if TEACHER_LOGITS in column_names(data) else of_teacher for data in datasets]
    first, *others = weights or [of_teacher]
    return first if first and len(first) > 1 and all(other == first for other in others) else None


def lambda_names(args: DistillationConfig, student: nn.Module, objective: Objective) -> list[str]:
    """Names of the layers, or of the KD losses, that have a λ each; none for one λ."""
    if args.lambda_scope == "layer":
        trainable = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
        return layer_groups(trainable)[1]
    return list(objective.kd_losses) if args.lambda_scope == "loss" else []


def lambda_kind(
    args: DistillationConfig,
    names: Sequence[str] = (),
    kd_weights: Sequence[float] = (),
    teacher_weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The JSON values by which a checkpoint's λ must be like that of a run.

    Args:
        args: settings of the run.
        names: see `lambda_names`.
        kd_weights: weights of the KD losses in their sum.
        teacher_weights: what `teacher_weights` returned.

    Returns:
        The name of the rule; and as `groups`, `losses` and `teachers`, the `num_groups`, `kd_weights` and
        `teacher_weights` of `LambdaState`.
    """
    return {
        "rule": args.lambda_rule,
        "groups": len(names) if args.lambda_scope == "layer" else None,
        "losses": list(kd_weights) if args.lambda_scope == "loss" else None,
        "teachers": teacher_weights,
    }


def lambda_state(
    args: DistillationConfig, kind: Mapping[str, Any], classes: int = 0, unit: Unit | None = None
) -> LambdaState:
    """λ's state before the first step.

    Args:
        args: settings of the run.
        kind: see `lambda_kind`.
        classes: see `item_classes`.
        unit: see `label_unit`.
    """
    return LambdaState(
        args.rule,
        decay=args.gram_decay,
        bounds=(args.lambda_min, args.lambda_max),
        max_change=args.lambda_max_change,
        form=args.lambda_form,
        num_groups=kind["groups"],
        kd_weights=kind["losses"],
        classes=classes,
        teacher_weights=kind["teachers"],
        unit=unit,
    )


def build_balancer(
    args: DistillationConfig,
    names: Sequence[str],
    kind: Mapping[str, Any],
    classes: int = 0,
    unit: Unit | None = None,
) -> Balancer:
    """The balancer of a run, whose λ has a state where the rule measures: see `lambda_names` and `lambda_state`."""
    state = lambda_state(args, kind, classes, unit) if args.rule.measures else None
    device: torch.device = args.device
    return Balancer(args.rule, args.lambda_form, args.interval, state, names, device)
