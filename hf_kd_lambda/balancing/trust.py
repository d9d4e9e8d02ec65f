"""How far label and teacher can be trusted on each item, judged by the student.

Label and teacher are two annotators, each informative on an item or no better than chance; the student, which has not
been trained on the item yet, is a third, independent view. For an item with label y, teacher probabilities p, student
probabilities q and K classes:

    label:    f_L(z) = α·1[z = y] + (1 − α)/K
    teacher:  f_T(z) = β·p(z) + (1 − β)/K
    truth:    P(z) ∝ q(z)·f_L(z)·f_T(z)

    r_L = Σ_z P(z)·α·1[z = y]/f_L(z)      the probability that the label is informative
    r_T = Σ_z P(z)·β·p(z)/f_T(z)          the probability that the teacher is
    α ← mean of r_L, β ← mean of r_T      EM, one step of it in each optimizer step

Two annotators alone reveal only how often they agree. The third view tells which of them is right, as long as its
errors are independent of theirs.

Multiplied out, with A = (1 − α)/K and B = (1 − β)/K, three numbers of an item are enough, whatever K is:

    Z = A·B + A·β·Σqp + α·q(y)·(B + β·p(y))
    r_L = α·q(y)·(B + β·p(y))/Z      r_T = β·(A·Σqp + α·q(y)·p(y))/Z

References:
    Dawid & Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm": the model, with
    hard answers. Northcutt et al. 2021, "Confident Learning": predictions on examples that a model was not trained on
    find wrong labels. The soft annotators and the student as the third one are ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.balancing.judge import Judge
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.chunked import chunks
from hf_kd_lambda.losses.functional.distributions import possible_classes
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import ItemWeights


class Agreement(NamedTuple):
    """What trust needs to know about items, `[...]` each, in fp32 and without gradient."""

    student_label: Tensor
    """q(y); 0 where there is no label."""
    teacher_label: Tensor
    """p(y); 0 where there is no label."""
    student_teacher: Tensor
    """Σ_z q(z)·p(z)"""
    labelled: Tensor
    """Boolean: items with a label."""
    counted: Tensor
    """Boolean: what is an item."""
    classes: Tensor
    """K, without those that a logit of −∞ excludes."""


class ItemTrust(NamedTuple):
    """Probabilities that label and teacher are informative, `[...]` each in [0, 1]."""

    label: Tensor
    """r_L; 0 where there is no label."""
    teacher: Tensor
    """r_T; 0 where there is no item."""


@torch.no_grad()
def agreement_of(student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels) -> Agreement:
    """The numbers of all items of a batch; for tokens chunk by chunk, since probabilities take much memory.

    Args:
        student_logits: `[examples, (length,) K]`.
        teacher: its outputs for the same batch, at temperature 1.
        items: labels `[examples, (length)]`.
    """
    tensors = (student_logits, items.kd, *teacher.chunked)
    parts = [
        _of_chunk(student, teacher.logits_of(*chunk), ItemLabels(task, kd))
        for student, kd, *chunk, task in chunks(tensors, items.task)
    ]
    return Agreement(*(torch.cat(part).view(items.kd.shape) for part in zip(*parts, strict=True)))


def _of_chunk(student_logits: Tensor, teacher_logits: Tensor, items: ItemLabels) -> tuple[Tensor, ...]:
    labelled, counted = items.task.ne(IGNORED), items.kd.ne(IGNORED)
    label = items.task.long().masked_fill(~labelled, 0).unsqueeze(-1)
    # Positions that are no items may hold anything.
    student, teacher = (
        logits.float().masked_fill(~counted.unsqueeze(-1), 0.0).softmax(-1)
        for logits in (student_logits, teacher_logits)
    )
    of_label = (torch.where(labelled, view.gather(-1, label).squeeze(-1), 0.0) for view in (student, teacher))
    classes = possible_classes(student_logits).clamp(min=1)
    return *of_label, (student * teacher).sum(-1), labelled, counted, classes


@torch.no_grad()
def item_trust(agreement: Agreement, label: Tensor, teacher: Tensor) -> ItemTrust:
    """The E step: r_L and r_T of each item, by Bayes' rule.

    Args:
        agreement: of the items, `[...]`.
        label: α, a scalar.
        teacher: β, a scalar.
    """
    q, p, qp, labelled, counted, classes = agreement
    by_chance, teacher_by_chance = (1 - label) / classes, (1 - teacher) / classes  # A and B
    # Without a label, the label factor is the same for all classes, as by chance alone.
    chance = torch.where(labelled, by_chance, 1.0)
    both = label * q * (teacher_by_chance + teacher * p)
    total = chance * teacher_by_chance + chance * teacher * qp + both  # Z
    return ItemTrust(
        torch.where(labelled, both / total, 0.0),
        torch.where(counted, teacher * (chance * qp + label * q * p) / total, 0.0),
    )


class Reliabilities(Judge):
    """α and β of a run, estimated while it trains: how much of the labels, and of the teacher, is informative.

    The M step takes the means of r_L and r_T over the items so far. Older items fade, also because their r_L and r_T
    come from the initial α and β: the later half of all items makes seven eighths of the means. After the first pass α
    and β stay as they are.

    Args:
        initial: α and β before any item, in (0, 1).
        prior: number of items that `initial` counts for, > 0.
    """

    fading = 2

    def __init__(self, initial: float = 0.8, prior: float = 5.0) -> None:
        super().__init__(4)  # Σr_L, labelled items, Σr_T, items
        self.initial = initial
        self.prior = prior

    @property
    def label(self) -> Tensor:
        """α, a scalar."""
        return (self.sums[0] + self.initial * self.prior) / (self.sums[1] + self.prior)

    @property
    def teacher(self) -> Tensor:
        """β, a scalar."""
        return (self.sums[2] + self.initial * self.prior) / (self.sums[3] + self.prior)

    @property
    def ratio(self) -> Tensor:
        """β/α, a scalar: λ of an item is the step's √(a/b) times r_T/r_L, as its losses weigh r_L/α and r_T/β."""
        return self.teacher / self.label

    @property
    def needs(self) -> dict[str, Tensor]:
        """The ratio of the reliabilities."""
        return {"trust_ratio": self.ratio}

    @property
    def logs(self) -> dict[str, Tensor]:
        """Both reliabilities."""
        return {"label_reliability": self.label, "teacher_reliability": self.teacher}

    def observe(self, student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels) -> tuple[ItemWeights, Tensor]:
        """Weights by the trust in each item, and what the items contribute to the means."""
        agreement = agreement_of(student_logits, teacher, items)
        trust = self.trust(agreement)
        return self.weights(trust), self.counts(agreement, trust)

    def trust(self, agreement: Agreement) -> ItemTrust:
        """r_L and r_T of items, by α and β so far."""
        return item_trust(agreement, self.label, self.teacher)

    def weights(self, trust: ItemTrust) -> ItemWeights:
        """Weights of the items of task loss and KD loss, `[...]` each: trust divided by its mean, so that it is 1."""
        return ItemWeights(trust.label / self.label, trust.teacher / self.teacher)

    @staticmethod
    def counts(agreement: Agreement, trust: ItemTrust) -> Tensor:
        """`(4,)`: what items contribute to `update`, additive over micro-batches and ranks."""
        parts = (trust.label, agreement.labelled, trust.teacher, agreement.counted)
        return torch.stack([part.float().sum() for part in parts])

    @staticmethod
    def items(counts: Tensor) -> Tensor:
        """The number of items."""
        return counts[3]
