"""Agreement of the student with teacher or label, on examples that it has not been trained on.

The gradients of a batch cannot show whether label or teacher is right: both errors look the same. The student's output
on a new example can, because it depends only on other examples.

Published: networks fit regularities before they memorise wrong labels (Arpit et al. 2017, "A Closer Look at
Memorization in Deep Networks"; Liu et al. 2020, "Early-Learning Regularization Prevents Memorization of Noisy
Labels"). This is used to select examples (small loss: Jiang et al. 2018, MentorNet; Han et al. 2018, Co-teaching), and
out-of-sample predictions estimate how many labels are wrong (Northcutt et al. 2021, "Confident Learning"). Ours: the
student votes between label and teacher before every update of the first pass over the data, and the odds of these
votes are one factor of λ.

Limit: the student is trained on the labels and the teacher that it judges. It learns systematic errors of either as if
they were correct. Only unsystematic errors are detected.
"""

import torch
from torch import Tensor

from hf_kd_lambda.balancing.judge import TINY, Judge
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import IGNORED, sum_over_chunks
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import NO_WEIGHTS, ItemWeights

PRIOR_VOTES = 5.0
"""Initial votes for each of teacher and label: Beta(5, 5) means even odds within a factor of two (one standard
deviation), and has the weight of about ten votes."""


@torch.no_grad()
def soft_votes(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Soft votes of a batch: the student's agreement with the teacher, and with the label.

    Every item has a weight, how much label and teacher differ, which is divided between the two:

    - classes: the weight is p(t) − p(y) in [0, 1], where p are the teacher's probabilities, t their argmax and y the
      label. The teacher's share is q(t)/(q(t) + q(y)), where q are the student's probabilities.
    - regression: the weight is d²/(d² + s²), where d is the distance of teacher and label, and s the standard
      deviation of the batch's labels. The shares of teacher and label are as 1/(student − teacher)² to
      1/(student − label)². The teacher's outputs are first rescaled to the mean and standard deviation of the labels:
      models predict less extreme values than their labels, and a student that has learned only the mean would agree
      with the value closer to it. Mean and deviation are those of the given items: a single item is ignored; with few
      items the rescaling is inaccurate.

    The weight is divided instead of given to the closer value: an untrained student then votes evenly. Hard votes
    would be noise and initial bias.

    Votes are additive: sum them over micro-batches and ranks. For classes the sum does not depend on the split.

    Args:
        student_logits: `[..., classes]`, or `[..., 1]` for regression, of examples that are new to the student.
        teacher_logits: same shape.
        labels: `[...]`, aligned with the logits: class indices, or numbers for regression; -100 for ignored items.

    Returns:
        `[2]`: (teacher, label), in fp32.
    """
    weigh = _weigh_values if student_logits.shape[-1] == 1 else _weigh_classes
    weight, share = weigh(student_logits, teacher_logits.float(), labels)
    votes = torch.stack([weight * share, weight * (1 - share)])
    return torch.where(labels.ne(IGNORED), votes, 0.0).flatten(1).sum(-1)


def _weigh_classes(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, the teacher's share of it) of every item, same shape as the labels."""
    chosen = teacher.argmax(-1, keepdim=True)
    labelled = labels.long().clamp(min=0).unsqueeze(-1)  # ignored items need a valid index until they are masked
    log_total = teacher.logsumexp(-1, keepdim=True)
    weight = (teacher.gather(-1, chosen) - log_total).exp() - (teacher.gather(-1, labelled) - log_total).exp()
    of_chosen, of_labelled = student.gather(-1, chosen).float(), student.gather(-1, labelled).float()
    difference = torch.where(of_chosen.eq(of_labelled), 0.0, of_chosen - of_labelled)  # both may be −∞
    share = difference.sigmoid()  # q(t)/(q(t) + q(y))
    return weight.squeeze(-1), share.squeeze(-1)


def _weigh_values(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, the teacher's share of it) of every item, same shape as the labels."""
    student, teacher, targets = student.float().squeeze(-1), teacher.squeeze(-1), labels.float()
    valid = labels.ne(IGNORED)
    mean, variance = _moments(targets, valid)
    teacher_mean, teacher_variance = _moments(teacher, valid)
    scale = torch.where(teacher_variance > 0, (variance / teacher_variance.clamp(min=TINY)).sqrt(), 0.0)
    teacher = mean + (teacher - teacher_mean) * scale
    difference = (teacher - targets).square()
    from_teacher, from_label = (student - teacher).square(), (student - targets).square()
    share = from_label / (from_teacher + from_label).clamp(min=TINY)
    return difference / (difference + variance).clamp(min=TINY), share


def _moments(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the valid values."""
    count = valid.sum().clamp(min=1)
    mean = torch.where(valid, values, 0.0).sum() / count
    return mean, torch.where(valid, values - mean, 0.0).square().sum() / count


@torch.no_grad()
def count_votes(student_logits: Tensor, teacher: TeacherBatch, labels: Tensor) -> Tensor:
    """`soft_votes` of a batch; chunk by chunk for tokens, because all logits need more memory than the cached top k.

    Args:
        student_logits: `[examples, (length,) classes]`.
        teacher: teacher outputs for the same batch.
        labels: `[examples, (length)]`.

    Returns:
        `[2]`: (teacher, label), in fp32.
    """

    def count(student: Tensor, *teacher_and_labels: Tensor) -> Tensor:
        *chunk, chunk_labels = teacher_and_labels
        return soft_votes(student, teacher.logits_of(*chunk), chunk_labels)

    return sum_over_chunks(count, (student_logits, *teacher.chunked), labels)


def check_votes(logits: Tensor, labels: Tensor) -> None:
    """Check that labels can be compared with the teacher; those of a custom `compute_loss_func` may not be classes.

    Args:
        logits: `[..., classes]`, or `[..., 1]` for regression.
        labels: `[...]`: class indices, or numbers for regression.

    Raises:
        ValueError: the labels are floats, but there are several classes.
    """
    if labels.is_floating_point() and logits.shape[-1] > 1:
        raise ValueError(
            f"lambda_rule='evidence' needs class indices as labels, to compare them with the teacher, but they are "
            f"{labels.dtype} for {logits.shape[-1]} classes: set lambda_rule to adaptive."
        )


class TeacherVotes(Judge):
    """The soft votes of a run, and their odds.

    Odds are (teacher + prior)/(label + prior), with the prior `PRIOR_VOTES`.

    The weight of a vote is proportional to the number of votes up to it, so the later half has three quarters of the
    weight. The odds become more accurate with every vote; with a fixed memory they would stay noisy.
    """

    fading = 1
    saved_as = ("counts", "cast")

    def __init__(self) -> None:
        super().__init__(2)

    @property
    def odds(self) -> Tensor:
        """Odds that the teacher is right if teacher and label disagree, a scalar tensor, 1 before the first vote."""
        teacher, label = self.sums + PRIOR_VOTES
        return teacher / label

    @property
    def rule_inputs(self) -> dict[str, Tensor]:
        """The odds."""
        return {"odds": self.odds}

    @property
    def logs(self) -> dict[str, Tensor]:
        """The odds, and the votes for teacher and label."""
        teacher, label = self.sums
        return {"evidence_teacher": teacher, "evidence_label": label, "odds": self.odds}

    def observe(
        self, student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels
    ) -> tuple[ItemWeights, Tensor | None]:
        """No weights, and `[2]`: the votes for teacher and label.

        Raises:
            ValueError: see `check_votes`.
        """
        if self.closed:
            return NO_WEIGHTS, None
        check_votes(student_logits, items.task)
        return NO_WEIGHTS, count_votes(student_logits, teacher, items.task)

    def num_items(self, counts: Tensor) -> Tensor:
        """The votes cast."""
        return counts.sum()
