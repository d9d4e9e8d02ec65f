"""Trust in the label and in the teacher for every item of a regression; `trust` does the same for classes.

Label y and teacher t are informative with the probabilities α and β. An informative one differs from the student s
by an error around 0, because both estimate the same number. An uninformative one is any number, distributed like all
labels or all teacher outputs: N(μ, τ²). With d = (y − s, t − s) and M, the mean of d·dᵀ where both are informative:

    both       ∝ α·β·N(d; 0, M)
    label      ∝ α·(1 − β)·N(y − s; 0, M_11)·N(t; μ_teacher, τ_teacher²)
    teacher    ∝ (1 − α)·β·N(y; μ_label, τ_label²)·N(t − s; 0, M_22)
    neither    ∝ (1 − α)·(1 − β)·N(y; μ_label, τ_label²)·N(t; μ_teacher, τ_teacher²)

    r_label = P(both) + P(label)      r_teacher = P(both) + P(teacher)

M_12 is the variance of the student's own error, which is part of both differences. So an inaccurate student does
not make label or teacher look wrong as long as they agree with each other.

References:
    EM of a mixture of normal distributions: Dempster, Laird & Rubin 1977, "Maximum Likelihood from Incomplete Data via
    the EM Algorithm". Variances from the differences of three: the "three-cornered hat" of Gray & Allan 1974, "A
    Method for Estimating the Frequency Stability of an Individual Oscillator". The mixture over annotators is ours.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hf_kd_lambda.balancing.judge import TINY
from hf_kd_lambda.balancing.reliabilities import ItemTrust, Reliabilities
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import ItemWeights

SMALLEST = 1e-4
"""Smallest variance of the errors, as a share of the variance of the labels."""
KNOWN_FROM = 8
"""Weight of the labelled items, of which older ones fade, from which variances are used: about 40 items.

The label shows whether student and teacher agree by chance."""
FARTHEST = 3.0
"""Numbers farther from the centre of the labels, in their width, are taken for this far. Otherwise a few outliers,
such as labels with a lost decimal point, would make all other wrong labels look right."""
ROUNDED_SHARE = 1e-6
"""Smallest variance of the labels, as a share of the mean of their squares, whose rounding errors in fp32 are less."""
EQUAL_SHARE = 1e-7
"""Labels that differ by less than this share of their size are the same number in fp32."""


class Unit(NamedTuple):
    """In which numbers are measured: (number − centre)/width."""

    centre: float
    width: float


class Numbers(NamedTuple):
    """The numbers of student, teacher and label: all `[...]`, in fp32 and detached."""

    student: Tensor
    teacher: Tensor
    label: Tensor
    """0 without a label."""
    labelled: Tensor
    """Boolean: whether the item has a label."""


class Spread(NamedTuple):
    """Parameters of the mixture besides α and β; all scalars."""

    label_error: Tensor
    """M_11"""
    shared_error: Tensor
    """M_12"""
    teacher_error: Tensor
    """M_22"""
    label_mean: Tensor
    label_variance: Tensor
    teacher_mean: Tensor
    teacher_variance: Tensor


class Posterior(NamedTuple):
    """Trust in label and teacher, and P(both), all `[...]`."""

    trust: ItemTrust
    both: Tensor
    """0 without a label."""


def unit_of(labels: np.ndarray) -> Unit:
    """The median of the labels, and their standard deviation, estimated from the median distance to it.

    Outliers hardly change these two (Huber 1981, "Robust Statistics", section 5.1: 1.4826 · MAD). Where more than half
    of the labels are equal but for rounding, the width is the standard deviation itself, and 1 where all are.

    Args:
        labels: `[examples]`, finite; at least one.
    """
    centre = float(np.median(labels))
    widths = (1.4826 * float(np.median(np.abs(labels - centre))), float(labels.std()))
    return Unit(centre, next((width for width in widths if width > EQUAL_SHARE * abs(centre)), 1.0))


@torch.no_grad()
def numbers_of(student_logits: Tensor, teacher_logits: Tensor, items: ItemLabels, unit: Unit | None = None) -> Numbers:
    """The numbers of student, teacher and label.

    Args:
        student_logits: `[examples, 1]`.
        teacher_logits: `[examples, 1]`.
        items: labels `[examples]`.
        unit: in which they are measured, up to `FARTHEST`; None to take them as they are.
    """
    labelled = items.task.ne(IGNORED)

    def measured(values: Tensor) -> Tensor:
        values = values.float()
        return values if unit is None else ((values - unit.centre) / unit.width).clamp(-FARTHEST, FARTHEST)

    student, teacher = (measured(logits.squeeze(-1)) for logits in (student_logits, teacher_logits))
    return Numbers(student, teacher, torch.where(labelled, measured(items.task), 0.0), labelled)


@torch.no_grad()
def number_posterior(numbers: Numbers, alpha: Tensor, beta: Tensor, spread: Spread) -> Posterior:
    """The E step: r_label and r_teacher of every item, by Bayes' rule.

    Args:
        numbers: items' numbers, `[...]`.
        alpha: a scalar.
        beta: a scalar.
        spread: spread of differences, labels and teacher outputs.
    """
    s, t, y, labelled = numbers
    any_label = _log_normal(y - spread.label_mean, spread.label_variance)
    any_teacher = _log_normal(t - spread.teacher_mean, spread.teacher_variance)
    informed_label = _log_normal(y - s, spread.label_error)
    informed_teacher = _log_normal(t - s, spread.teacher_error)
    # N(d; 0, M) = N(y − s)·N(t − s given y − s)
    slope = spread.shared_error / spread.label_error
    rest = (spread.teacher_error - slope * spread.shared_error).clamp(min=SMALLEST * spread.teacher_error)
    both = informed_label + _log_normal(t - s - slope * (y - s), rest)
    log_label, log_no_label = alpha.log(), (-alpha).log1p()
    log_teacher, log_no_teacher = beta.log(), (-beta).log1p()
    joint = [
        log_label + log_teacher + both,
        log_label + log_no_teacher + informed_label + any_teacher,
        log_no_label + log_teacher + any_label + informed_teacher,
        log_no_label + log_no_teacher + any_label + any_teacher,
    ]
    with_label = torch.where(labelled, torch.stack(joint).softmax(0), 0.0)
    without = (log_teacher + informed_teacher - log_no_teacher - any_teacher).sigmoid()
    of_teacher = torch.where(labelled, with_label[0] + with_label[2], without)
    return Posterior(ItemTrust(with_label[0] + with_label[1], of_teacher), with_label[0])


def _log_normal(difference: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (difference.square() / variance + (2 * math.pi * variance).log())


class NumberReliabilities(Reliabilities):
    """α and β of a regression, with the variances of the mixture.

    Without labels, and before `KNOWN_FROM`, the variances are not known: then all items have the same trust.
    Older items fade faster than with classes, because the first variances come from items that are wrong too.

    Args:
        unit: see `numbers_of`.
    """

    fading = 4

    def __init__(self, unit: Unit | None = None) -> None:
        self.unit = unit
        # Σr_label, labelled items, Σr_teacher, items; ΣP(both) times 1, (y − s)², (y − s)·(t − s), (t − s)²;
        # Σy, Σy², Σt, Σt²
        super().__init__(12)

    @property
    def annotators(self) -> Tensor:
        """`[2, 2, 1]`: Σr_label and labelled items, Σr_teacher and items."""
        return self.sums[:4].view(2, 2, 1)

    @property
    def spread(self) -> Spread:
        """The current variances. A variance is at least `SMALLEST` of that of the labels."""
        _, labelled, _, items, both, *differences, y, yy, t, tt = self.sums.unbind()
        label_mean, teacher_mean = y / labelled.clamp(min=1e-6), t / items.clamp(min=1e-6)
        square = (yy / labelled.clamp(min=1e-6)).clamp(min=TINY**0.5)
        label_variance = (square - label_mean.square()).clamp(min=ROUNDED_SHARE * square)
        floor = SMALLEST * label_variance
        teacher_variance = (tt / items.clamp(min=1e-6) - teacher_mean.square()).clamp(min=floor)
        of_label, shared, of_teacher = (difference / both.clamp(min=1e-6) for difference in differences)
        return Spread(
            of_label + floor, shared, of_teacher + floor, label_mean, label_variance, teacher_mean, teacher_variance
        )

    def observe(
        self, student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels
    ) -> tuple[ItemWeights, Tensor | None]:
        """Per-item weights from the trust in label and teacher, and counts `[12]` for the M step."""
        numbers = numbers_of(student_logits, teacher.logits, items, self.unit)
        posterior = self.posterior(numbers)
        return self.weights(posterior.trust), None if self.closed else self.counts(numbers, posterior)

    def posterior(self, numbers: Numbers) -> Posterior:
        """Trust in label and teacher for every item, with the current α, β and variances."""
        found = number_posterior(numbers, self.alpha, self.beta, self.spread)
        label = torch.where(numbers.labelled, self.alpha, 0.0)
        unknown = Posterior(ItemTrust(label, self.beta.expand_as(label)), label * self.beta)
        is_known = self.sums[1] >= KNOWN_FROM
        label, of_teacher, both = (
            torch.where(is_known, value, other)
            for value, other in zip((*found.trust, found.both), (*unknown.trust, unknown.both), strict=True)
        )
        return Posterior(ItemTrust(label, of_teacher), both)

    @staticmethod
    def counts(numbers: Numbers, posterior: Posterior) -> Tensor:
        """`[12]`: counts for `update`, additive over micro-batches and ranks."""
        s, t, y, labelled = numbers
        trust, both = posterior
        from_label, from_teacher = y - s, t - s
        parts = (
            *(trust.label, labelled, trust.teacher, torch.ones_like(t)),
            *(both, both * from_label.square(), both * from_label * from_teacher, both * from_teacher.square()),
            *(y, y.square(), t, t.square()),
        )
        return torch.stack([part.float().sum() for part in parts])

    def num_items(self, counts: Tensor) -> Tensor:
        """The number of items."""
        return counts[3]

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values, with the unit of its sums."""
        return {**super().state_dict(), "unit": self.unit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        super().load_state_dict(state)
        self.unit = None if state["unit"] is None else Unit(*state["unit"])
