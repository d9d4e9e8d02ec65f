"""Trust for regression: the lifts of `trust` for labels, teacher and student that are numbers.

An informative label is y = z + noise of variance σ_L², an informative teacher t = z + noise of σ_T², and z is the
student's output s plus an error of variance σ_S². Otherwise y and t are draws from their distributions over all items,
N(ȳ, τ_L²) and N(t̄, τ_T²). So a lift is a normal density of the differences u = y − s and v = t − s, divided by that of
the draws:

    informative sources     lift
    label, student          N(u; V_LS)/N(y; τ_L²)                   V_LS = σ_L² + σ_S²
    teacher, student        N(v; V_TS)/N(t; τ_T²)                   V_TS = σ_T² + σ_S²
    label, teacher          N(u − v; V_LT)/N(y; τ_L²)               V_LT = σ_L² + σ_T²
    all three               N(u, v; V_LS, V_TS, covariance σ_S²)/(N(y; τ_L²)·N(t; τ_T²))

The variances are those of differences, weighted by trust. The covariance of u and v is σ_S²; so σ_L² = V_LS − σ_S² =
½(V_LT + V_LS − V_TS), and σ_T² likewise. This is the three-cornered hat (Gray & Allan 1974, "A Method for Estimating
the Frequency Stability of an Individual Oscillator"), which compares three clocks without a perfect one.

Its limit: teacher and student that predict too near the mean share an error. The hat counts it for the label.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.balancing.trust import Agreement, ItemTrust, Reliabilities
from hf_kd_lambda.losses.functional.items import IGNORED

FEWEST = 10  # items with a label before variances are used; until then nothing has a lift
FLOOR = 1e-3  # smallest variance of a difference, relative to that of the labels
LARGEST_LOG_LIFT = 60.0  # logarithm of the largest lift: e⁶⁰ = 10²⁶, whose products fp32 still holds


class Spread(NamedTuple):
    """Means and variances of labels, teacher and their differences from the student; scalars."""

    label_mean: Tensor
    label: Tensor
    """τ_L²"""
    teacher_mean: Tensor
    teacher: Tensor
    """τ_T²"""
    label_bias: Tensor
    """Mean of u = y − s."""
    label_student: Tensor
    """V_LS"""
    teacher_bias: Tensor
    """Mean of v = t − s."""
    teacher_student: Tensor
    """V_TS"""
    student: Tensor
    """σ_S²"""

    @property
    def label_noise(self) -> Tensor:
        """σ_L² of informative labels."""
        return self.label_student - self.student

    @property
    def teacher_noise(self) -> Tensor:
        """σ_T² of the informative teacher."""
        return self.teacher_student - self.student


def value_moments(values: Tensor, labelled: Tensor, counted: Tensor, trust: ItemTrust) -> Tensor:
    """Sums from which `spread_of` computes variances, `[16]`: additive over items, micro-batches and ranks.

    Args:
        values: `[..., 3]`, (label, teacher, student).
        labelled: `[...]` bool, items with a label.
        counted: `[...]` bool, all items.
        trust: in label and teacher of the items; weights of the differences.
    """
    y, t, s = values.unbind(-1)
    u, v = y - s, t - s
    sums = []
    for weight, x in ((labelled, y), (counted, t), (trust.label, u), (trust.teacher, v)):
        sums += [weight, weight * x, weight * x.square()]
    sums += [trust.both, trust.both * u, trust.both * v, trust.both * u * v]
    return torch.stack([terms.float().sum() for terms in sums])


def spread_of(moments: Tensor) -> Spread:
    """Variances from the sums of `value_moments`: finite and consistent with each other, whatever the sums are."""
    groups = moments[:12].view(4, 3)
    weights = groups[:, 0].clamp(min=torch.finfo(moments.dtype).tiny)
    means = groups[:, 1] / weights
    variances = (groups[:, 2] / weights - means.square()).clamp(min=torch.finfo(moments.dtype).tiny)
    smallest = FLOOR * variances[0]
    label_student, teacher_student = torch.maximum(variances[2:], smallest)
    both, u, v, product = moments[12:]
    both = both.clamp(min=torch.finfo(moments.dtype).tiny)
    covariance = product / both - (u / both) * (v / both)
    largest = torch.minimum(label_student, teacher_student) - smallest / 2  # σ_L² and σ_T² are positive
    student = torch.minimum(covariance.clamp(min=0), largest)
    return Spread(
        means[0], variances[0], means[1], torch.maximum(variances[1], smallest),
        means[2], label_student, means[3], teacher_student, student,
    )  # fmt: skip


@torch.no_grad()
def value_lifts(values: Tensor, labelled: Tensor, counted: Tensor, spread: Spread) -> Tensor:
    """Lifts `[..., 5]` in the order of `trust`, by the module's formulas.

    Args:
        values: `[..., 3]`, (label, teacher, student).
        labelled: `[...]` bool, items with a label.
        counted: `[...]` bool, all items.
        spread: from `spread_of`.
    """
    y, t, s = values.unbind(-1)
    u, v = y - s - spread.label_bias, t - s - spread.teacher_bias
    label_draw = _log_normal(y - spread.label_mean, spread.label)
    teacher_draw = _log_normal(t - spread.teacher_mean, spread.teacher)
    slope = spread.student / spread.teacher_student  # of the mean of u, given v
    u_given_v = _log_normal(u - slope * v, spread.label_student - slope * spread.student)

    label_student = _log_normal(u, spread.label_student) - label_draw
    teacher_student = _log_normal(v, spread.teacher_student) - teacher_draw
    label_teacher = _log_normal(u - v, spread.label_noise + spread.teacher_noise) - label_draw
    all_three = teacher_student + u_given_v - label_draw

    by_chance = torch.zeros_like(y)
    label_teacher, label_student = (torch.where(labelled, x, by_chance) for x in (label_teacher, label_student))
    all_three = torch.where(labelled, all_three, teacher_student)
    logs = torch.stack([by_chance, label_teacher, label_student, teacher_student, all_three], dim=-1)
    return torch.where(counted.unsqueeze(-1), logs.clamp(max=LARGEST_LOG_LIFT).exp(), 1.0)


def _log_normal(distance: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * (distance.square() / variance + variance.log() + math.log(2 * math.pi))


class ValueReliabilities(Reliabilities):
    """`Reliabilities` for regression, which also estimates the variances that the lifts need.

    Attributes:
        moments: sums of `value_moments`, which fade like the likelihood.
    """

    _sums = ("likelihood", "class_likelihood", "totals", "moments")

    def __init__(self) -> None:
        super().__init__()
        self.moments = torch.zeros(16)

    @property
    def spread(self) -> Spread:
        """Variances so far."""
        return spread_of(self.moments)

    @property
    def informative(self) -> Tensor:
        """ρ_T·τ_T/(ρ_L·τ_L), with ρ = 1 − σ²/τ² the share of signal: a scalar, 0 for a constant teacher."""
        spread = self.spread
        label, teacher = ((1 - noise / whole).clamp(0, 1) for noise, whole in (
            (spread.label_noise, spread.label), (spread.teacher_noise, spread.teacher)))  # fmt: skip
        ratio = teacher / label.clamp(min=0.1) * (spread.teacher / spread.label).sqrt()
        return torch.where(self.moments[0] >= FEWEST, ratio, 1.0)

    def agreement(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, counted: Tensor | None = None
    ) -> Agreement:
        """Lifts of items of regression.

        Args:
            student_logits: `[..., 1]`, from before the student was trained on these items.
            teacher_logits: `[..., 1]`.
            labels: `[...]`, floats; -100 where an item has no label.
            counted: `[...]` bool, False for what is not an item. Default: all are items.
        """
        self.to(student_logits.device)
        counted = torch.ones_like(labels, dtype=torch.bool) if counted is None else counted.bool()
        labelled = counted & labels.ne(IGNORED)
        columns = (labels, teacher_logits.squeeze(-1), student_logits.squeeze(-1))
        values = torch.stack(
            [
                x.detach().float().masked_fill(~kept, 0.0)
                for x, kept in zip(columns, (labelled, counted, counted), strict=True)
            ],
            dim=-1,
        )
        lifts = value_lifts(values, labelled, counted, self.spread)
        lifts = torch.where(self.moments[0] >= FEWEST, lifts, 1.0)
        classes = torch.zeros_like(labels, dtype=torch.long)
        return Agreement(lifts, classes, classes, labelled, counted, torch.zeros_like(values[..., 0]), values)

    def _contributions(self, agreement: Agreement, trust: ItemTrust) -> tuple[Tensor, ...]:
        assert agreement.values is not None, "agreement() of this class has them"
        moments = value_moments(agreement.values, agreement.labelled, agreement.counted, trust)
        return (*super()._contributions(agreement, trust), moments)


def make_reliabilities(classes: int | None) -> Reliabilities:
    """The reliabilities for a student with this many outputs: 1 for regression, None for a vocabulary."""
    return ValueReliabilities() if classes == 1 else Reliabilities(classes)
