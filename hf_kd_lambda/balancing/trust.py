"""Trust in the label and in the teacher for every item, estimated with the student.

Label and teacher are two annotators. Each is either informative on an item or no better than chance. The student, not
yet trained on the item, is a third, independent annotator. For an item with label y, teacher probabilities p, student
probabilities q and K classes:

    f_label(z)   = α_z·1[z = y] + (1 − α_z)/K
    f_teacher(z) = β_z·p(z) + (1 − β_z)·g,  g = Σ_t p(t)·ρ(t)
    P(z)         ∝ q(z)·f_label(z)·f_teacher(z)     probability that z is the true class

ρ is the teacher's mean output: a teacher that guesses gives each answer as often as it does on average, and g is the
probability of guessing this one. So the answer that a teacher gives to nearly all items tells little. If all answers
are equally frequent, g is 1/K.

    r_label = Σ_z P(z)·α_z·1[z = y]/f_label(z)      probability that the label is informative
    r_teacher = Σ_z P(z)·β_z·p(z)/f_teacher(z)      probability that the teacher is informative

One step of EM per optimizer step:

    α_c ← Σ r_label of the labels c / Σ P(c)        β_c ← Σ P(c)·β_c·p(c)/f_teacher(c) / Σ P(c)

Sums for α are over labelled items, those for β over all items.

α and β are the same for all classes if there are two, or too many to count each. Then they are the means of r_label
and r_teacher.

Two annotators only show how often they agree. The third shows which of them is right, if its errors are independent
of theirs.

Several teachers m are as many annotators: P(z) ∝ q(z)·f_label(z)·Π_m f_m(z), with r_m and β_m of each. To one of them,
the student and all other teachers together are the student: with q_m(z) ∝ q(z)·Π_{n≠m} f_n(z) in place of q, P and r_m
are those of the model with one teacher. So both steps of EM are taken once for each teacher, see `views_of_each`.

Multiplied out, with A_z = (1 − α_z)/K and B_z = (1 − β_z)·g, no division by f_label or f_teacher is left:

    chance = Σ_z q(z)·A_z·B_z     guessed = Σ_z q(z)·A_z·β_z·p(z)     Z = chance + guessed + α_y·q(y)·(B_y + β_y·p(y))
    r_label = α_y·q(y)·(B_y + β_y·p(y))/Z      r_teacher = (guessed + α_y·q(y)·β_y·p(y))/Z

References:
    Dawid & Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm": the model, with
    hard answers; guesses by their frequencies as in Cohen 1960, "A Coefficient of Agreement for Nominal Scales".
    Northcutt et al. 2021, "Confident Learning": out-of-sample predictions find wrong labels. The soft
    annotators and the student as the third annotator are ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.balancing.reliabilities import ItemTrust
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.distributions import possible_classes
from hf_kd_lambda.losses.functional.labels import ItemLabels


class Views(NamedTuple):
    """Predictions of student and teacher, and labels; in fp32 and detached.

    Where a position is not an item, predictions may be NaN.
    """

    student: Tensor
    """q, `[..., K]`"""
    teacher: Tensor
    """p, `[..., K]`"""
    label: Tensor
    """y, `[...]`; 0 without a label."""
    labelled: Tensor
    """Boolean `[...]`: whether the item has a label."""
    counted: Tensor
    """Boolean `[...]`: whether it is an item, not an ignored position."""
    classes: Tensor
    """`[...]`: K, without classes that a logit of −∞ excludes."""
    guess: Tensor
    """g, `[...]`: the probability that a teacher that guesses gives this answer."""


@torch.no_grad()
def views_of(
    student_logits: Tensor, teacher_logits: Tensor, items: ItemLabels, mean_output: Tensor | None = None
) -> Views:
    """Predictions of student and teacher, and labels.

    Args:
        student_logits: `[..., K]`.
        teacher_logits: `[..., K]`, at temperature 1.
        items: labels `[...]`.
        mean_output: ρ, `[K]`; None for 1/K.
    """
    labelled, counted = items.task.ne(IGNORED), items.kd.ne(IGNORED)
    student, teacher = (logits.float().softmax(-1) for logits in (student_logits, teacher_logits))
    classes = possible_classes(student_logits).clamp(min=1)
    guess = 1 / classes if mean_output is None else (teacher * mean_output).sum(-1)
    return Views(student, teacher, items.task.long().masked_fill(~labelled, 0), labelled, counted, classes, guess)


@torch.no_grad()
def views_of_each(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    items: ItemLabels,
    betas: Sequence[Tensor],
    mean_outputs: Sequence[Tensor | None],
) -> list[Views]:
    """Views for every teacher, in which the student and all other teachers together are the student.

    With one teacher, they are those of `views_of`.

    Args:
        student_logits: `[..., K]`.
        teacher_logits: `[..., K]` of every teacher, at temperature 1.
        items: labels `[...]`.
        betas: β of every teacher, `[K]`, or `[1]` for all classes.
        mean_outputs: ρ of every teacher, see `views_of`.
    """
    given = zip(teacher_logits, mean_outputs, strict=True)
    views = [views_of(student_logits, logits, items, mean) for logits, mean in given]
    pairs = list(zip(views, betas, strict=True))

    def with_others(index: int) -> Views:
        student = views[index].student
        for seen, beta in pairs[:index] + pairs[index + 1 :]:
            product = student * (beta * seen.teacher + (1 - beta) * seen.guess.unsqueeze(-1))  # q·f_n
            student = product / product.sum(-1, keepdim=True)
        return views[index]._replace(student=student)

    return [with_others(index) for index in range(len(views))]


class ClassPosterior(NamedTuple):
    """Parts of Z that are of the label y, and of every class; see above.

    With α and β for all classes, only the sums over the classes are computed: a vocabulary may be large. Where a
    position is not an item, `label` and `label_and_teacher` are 0, and Z is 1.
    """

    label: Tensor
    """α_y·q(y)·(B_y + β_y·p(y)) `[...]`; 0 without a label."""
    label_and_teacher: Tensor
    """α_y·q(y)·β_y·p(y) `[...]`; 0 without a label."""
    chance: Tensor
    """q(z)·A_z·B_z `[..., K or 1]`"""
    guessed: Tensor
    """q(z)·A_z·β_z·p(z) `[..., K or 1]`"""

    @property
    def total(self) -> Tensor:
        """Z, `[...]`."""
        return self.chance.sum(-1) + self.guessed.sum(-1) + self.label


@torch.no_grad()
def class_posterior(views: Views, alpha: Tensor, beta: Tensor) -> ClassPosterior:
    """What both steps of EM need, by Bayes' rule.

    Args:
        views: items' views, `[...]`.
        alpha: `[K]`, or `[1]` for all classes.
        beta: `[K]`, or `[1]` for all classes.
    """
    q, p, y, labelled, counted, classes, guess = views
    teacher_by_chance = (1 - beta) * guess.unsqueeze(-1)  # B
    # Without a label, the label factor is constant over the classes and cancels.
    by_chance = torch.where(labelled.unsqueeze(-1), (1 - alpha) / classes.unsqueeze(-1), 1.0)  # A

    def of_label(values: Tensor) -> Tensor:
        return values.expand_as(q).gather(-1, y.unsqueeze(-1)).squeeze(-1)

    def if_labelled(values: Tensor) -> Tensor:
        return torch.where(labelled, values, 0.0)

    informed, knows = of_label(alpha) * of_label(q), of_label(beta) * of_label(p)  # α_y·q(y) and β_y·p(y)
    informative = if_labelled(informed * (of_label(teacher_by_chance) + knows))
    if len(alpha) == len(beta) == 1:  # A, B and β are constant over z, so Σ q(z) = 1 and Σ q(z)·p(z) suffice
        with torch.autocast(q.device.type, enabled=False):  # autocast would multiply in half precision
            prior, agreement = torch.ones_like(by_chance), torch.linalg.vecdot(q, p).unsqueeze(-1)
    else:
        prior, agreement = q, q * p
    items = counted.unsqueeze(-1)
    chance = torch.where(items, prior * by_chance * teacher_by_chance, 1 / prior.shape[-1])
    guessed = torch.where(items, agreement * (by_chance * beta), 0.0)
    return ClassPosterior(informative, if_labelled(informed * knows), chance, guessed)


@torch.no_grad()
def item_trust(views: Views, parts: ClassPosterior) -> ItemTrust:
    """The E step: r_label and r_teacher of every item.

    Args:
        views: items' views, `[...]`.
        parts: see `class_posterior`.
    """
    total = parts.total  # Z
    teacher = (parts.guessed.sum(-1) + parts.label_and_teacher) / total  # r_teacher
    return ItemTrust(parts.label / total, torch.where(views.counted, teacher, 0.0))


@torch.no_grad()
def class_counts(views: Views, parts: ClassPosterior) -> Tensor:
    """What the M step sums, per class, `[2, 2, K]`: numerator and denominator of α_c, then those of β_c.

    Args:
        views: items' views, `[...]`.
        parts: see `class_posterior`; with α and β of every class.
    """
    of_label = torch.nn.functional.one_hot(views.label, views.student.shape[-1])
    total = parts.total.unsqueeze(-1)  # Z
    labels = of_label * parts.label.unsqueeze(-1) / total  # r_label where c = y, else 0
    truth = (parts.chance + parts.guessed) / total + labels  # P(c)
    known = (parts.guessed + of_label * parts.label_and_teacher.unsqueeze(-1)) / total  # P(c)·β_c·p(c)/f_teacher(c)
    labelled, counted = views.labelled.unsqueeze(-1), views.counted.unsqueeze(-1)
    sums = (labels, truth * labelled, known * counted, truth * counted)
    return torch.stack([values.flatten(0, -2).sum(0) for values in sums]).view(2, 2, -1)


@torch.no_grad()
def output_sums(views: Views) -> Tensor:
    """Sum of the teacher's probabilities over the items, `[K]`, for ρ.

    Args:
        views: items' views, `[...]`.
    """
    return torch.where(views.counted.unsqueeze(-1), views.teacher, 0.0).flatten(0, -2).sum(0)
