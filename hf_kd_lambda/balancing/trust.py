"""Trust in the label and in the teacher for every item, estimated with the student.

Label and teacher are two annotators. Each is either informative on an item or no better than chance. The student, not
yet trained on the item, is a third, independent annotator. For an item with label y, teacher probabilities p, student
probabilities q and K classes:

    label:    f_L(z) = α·1[z = y] + (1 − α)/K
    teacher:  f_T(z) = β·p(z) + (1 − β)/K
    truth:    P(z) ∝ q(z)·f_L(z)·f_T(z)

    r_L = Σ_z P(z)·α·1[z = y]/f_L(z)      probability that the label is informative
    r_T = Σ_z P(z)·β·p(z)/f_T(z)          probability that the teacher is informative
    α ← mean of r_L, β ← mean of r_T      one EM step per optimizer step

Two annotators only show how often they agree. The third shows which of them is right, if its errors are independent
of theirs.

Multiplied out, with A = (1 − α)/K and B = (1 − β)/K, three numbers per item are enough for every K:

    Z = A·B + A·β·Σqp + α·q(y)·(B + β·p(y))
    r_L = α·q(y)·(B + β·p(y))/Z      r_T = β·(A·Σqp + α·q(y)·p(y))/Z

References:
    Dawid & Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm": the model, with
    hard answers. Northcutt et al. 2021, "Confident Learning": out-of-sample predictions find wrong labels. The soft
    annotators and the student as the third annotator are ours.
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
    """Inputs of `item_trust`: all `[...]`, one value per item, in fp32 and detached."""

    student_label: Tensor
    """q(y); 0 without a label."""
    teacher_label: Tensor
    """p(y); 0 without a label."""
    student_teacher: Tensor
    """Σ_z q(z)·p(z)"""
    labelled: Tensor
    """Boolean: whether the item has a label."""
    counted: Tensor
    """Boolean: whether it is an item, not an ignored position."""
    classes: Tensor
    """K, without classes that a logit of −∞ excludes."""


class ItemTrust(NamedTuple):
    """Probabilities in [0, 1] that label and teacher are informative, both `[...]`."""

    label: Tensor
    """r_L; 0 without a label."""
    teacher: Tensor
    """r_T; 0 at positions that are not items."""


@torch.no_grad()
def agreement_of(student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels) -> Agreement:
    """The agreement of student, teacher and label on a batch; chunk by chunk for tokens, to save memory.

    Args:
        student_logits: `[examples, (length,) K]`.
        teacher: teacher outputs for the same batch, at temperature 1.
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
    # Positions that are not items may contain NaN or infinity.
    student, teacher = (
        logits.float().masked_fill(~counted.unsqueeze(-1), 0.0).softmax(-1)
        for logits in (student_logits, teacher_logits)
    )
    of_label = (torch.where(labelled, probs.gather(-1, label).squeeze(-1), 0.0) for probs in (student, teacher))
    classes = possible_classes(student_logits).clamp(min=1)
    return *of_label, (student * teacher).sum(-1), labelled, counted, classes


@torch.no_grad()
def item_trust(agreement: Agreement, label: Tensor, teacher: Tensor) -> ItemTrust:
    """The E step: r_L and r_T of every item, by Bayes' rule.

    Args:
        agreement: agreement on the items, `[...]`.
        label: α, a scalar.
        teacher: β, a scalar.
    """
    q, p, qp, labelled, counted, classes = agreement
    by_chance, teacher_by_chance = (1 - label) / classes, (1 - teacher) / classes  # A and B
    # Without a label, the label factor is constant over the classes and cancels.
    chance = torch.where(labelled, by_chance, 1.0)
    both = label * q * (teacher_by_chance + teacher * p)
    total = chance * teacher_by_chance + chance * teacher * qp + both  # Z
    return ItemTrust(
        torch.where(labelled, both / total, 0.0),
        torch.where(counted, teacher * (chance * qp + label * q * p) / total, 0.0),
    )


class Reliabilities(Judge):
    """α and β, estimated during training: the informative share of the labels and of the teacher's outputs.

    The M step computes the means of r_L and r_T over the items so far. Older items fade, also because their r_L and
    r_T come from the initial α and β: the later half of the items has seven eighths of the weight. After the first
    pass over the data, α and β are constant.

    Args:
        initial: α and β before the first item, in (0, 1).
        prior: weight of `initial`, as a number of items, > 0.
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
        """β/α, a scalar. Items have the weights r_L/α and r_T/β, so the λ of an item is √(a/b)·r_T/r_L."""
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
        """Per-item weights from the trust in label and teacher, and counts `[4]` for the means."""
        agreement = agreement_of(student_logits, teacher, items)
        trust = self.trust(agreement)
        return self.weights(trust), self.counts(agreement, trust)

    def trust(self, agreement: Agreement) -> ItemTrust:
        """r_L and r_T of every item, with the current α and β."""
        return item_trust(agreement, self.label, self.teacher)

    def weights(self, trust: ItemTrust) -> ItemWeights:
        """Per-item weights of task loss and KD loss, both `[...]`: trust divided by its mean, so their mean is 1."""
        return ItemWeights(trust.label / self.label, trust.teacher / self.teacher)

    @staticmethod
    def counts(agreement: Agreement, trust: ItemTrust) -> Tensor:
        """`[4]`: counts for `update`, additive over micro-batches and ranks."""
        parts = (trust.label, agreement.labelled, trust.teacher, agreement.counted)
        return torch.stack([part.float().sum() for part in parts])

    @staticmethod
    def items(counts: Tensor) -> Tensor:
        """The number of items."""
        return counts[3]
