"""Whether teacher or student have memorised training labels: wrong ones then look right.

A model that has learned nothing from its training labels but what holds for all examples agrees with training and
validation labels alike, if both have the same errors. What it agrees with training labels more, it has memorised.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from hf_kd_lambda.losses.functional import IGNORED

SMALLEST_DIFFERENCE = 0.01
"""A smaller difference hides less than one label in a hundred, the accuracy of what is reported."""


class Judged(NamedTuple):
    """Outputs of student and teacher on examples with labels."""

    student: Tensor
    """Logits `[examples, classes]`."""
    teacher: Tensor
    """Logits, same shape."""
    labels: Tensor
    """Classes `[examples]`; -100 without a label."""
    teachers: Sequence[Tensor] = ()
    """Logits of every one of several teachers, whose mean is `teacher`; empty for one."""


class Agreement(NamedTuple):
    """Shares, in [0, 1], of the labels that are the most probable class of a model."""

    model: str
    """`teacher` or `student`."""
    training: float
    validation: float
    training_labels: int
    """Number of the training labels."""
    validation_labels: int
    """Number of the validation labels."""

    @property
    def has_memorised(self) -> bool:
        """Whether the model agrees with training labels more: by 0.01 and by two standard errors of the difference."""
        error = math.hypot(
            _error(self.training, self.training_labels), _error(self.validation, self.validation_labels)
        )
        return self.training - self.validation > max(SMALLEST_DIFFERENCE, 2 * error)


def agreements(training: Judged, validation: Judged) -> list[Agreement]:
    """How far teacher and student agree with the labels; nothing without labels on either side.

    Args:
        training: the examples that the student, and perhaps the teacher, was trained on.
        validation: examples that neither was trained on, with labels from the same source.
    """
    first, second = (int(judged.labels.ne(IGNORED).sum()) for judged in (training, validation))
    if not first or not second:
        return []
    pairs = {"teacher": (training.teacher, validation.teacher), "student": (training.student, validation.student)}
    return [
        Agreement(model, _share(seen, training.labels), _share(new, validation.labels), first, second)
        for model, (seen, new) in pairs.items()
    ]


def _error(share: float, labels: int) -> float:
    """Standard error of a share with one agreement and one disagreement more, as few labels may have none."""
    corrected = (share * labels + 1) / (labels + 2)
    return math.sqrt(corrected * (1 - corrected) / labels)


def _share(logits: Tensor, labels: Tensor) -> float:
    """Share of the labels that are the most probable class."""
    labelled = labels.ne(IGNORED)
    return logits.argmax(-1).eq(labels)[labelled].float().mean().item()


def agreement_summary(agreement: Agreement) -> dict[str, Any]:
    """JSON values of an agreement."""
    return {**agreement._asdict(), "has_memorised": agreement.has_memorised}


def explain_memorised(found: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the share of wrong labels is probably too small, in two sentences; None if no model has memorised labels.

    Args:
        found: summaries of teacher and student, see `agreement_summary`.
    """
    models = [model for model in found if model["has_memorised"]]
    if not models:
        return None
    first, *others = (
        f"the {model['model']} agrees with {model['training']:.0%} of the training labels, but with only "
        f"{model['validation']:.0%} of the validation labels"
        for model in models
    )
    words = "; ".join([f"{first[0].upper()}{first[1:]}", *others])
    return f"{words}. So training labels were memorised, and wrong ones among them do not look wrong."
