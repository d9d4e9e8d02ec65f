"""Which loss is right where label and teacher disagree, judged by the student on examples it has not been trained on.

No function of one batch's gradients can tell: a wrong label and a wrong teacher pull alike. An example that is new to
the student can, as the student knows of it only what it has learned from others.

Published: networks fit what is regular before they memorise wrong labels (Arpit et al. 2017, "A Closer Look at
Memorization in Deep Networks"; Liu et al. 2020, "Early-Learning Regularization Prevents Memorization of Noisy
Labels"); examples are chosen by it (small loss: Jiang et al. 2018, MentorNet; Han et al. 2018, Co-teaching), and
predictions on examples held out from training estimate how many labels are wrong (Northcutt et al. 2021, "Confident
Learning"). Ours: to let the student vote between label and teacher, before each update of the first pass over the
data, and to make the odds one factor of λ.

Its limit: the student is trained by the two that it judges. A mistake that the teacher makes by rule is learned from
the teacher, and taken for truth; so is a rule in wrong labels. Mistakes that follow no rule are what is found.
"""

import torch
from torch import Tensor

from hf_kd_lambda.balancing.judge import TINY, Judge
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import IGNORED, sum_over_chunks
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import NO_WEIGHTS, ItemWeights


@torch.no_grad()
def side_counts(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """Soft counts of the items of one batch on which the student sides with the teacher, and with the label.

    An item counts only as far as label and teacher differ, and is divided between the two:

    - classes: p(t) − p(y) in [0, 1], with t the class that the teacher's p makes most probable and y the label; of
      that q(t)/(q(t) + q(y)) for the teacher, with q the student's probabilities.
    - regression: d²/(d² + s²), with d the distance of teacher and label and s the standard deviation of the batch's
      labels; of that the share of the teacher falls with the squared distance of the student from it, as
      1/(student − teacher)² to 1/(student − label)². The teacher's numbers are first brought to the mean and standard
      deviation of the labels: a model says less extreme numbers than it was taught, and a student that knows nothing
      but the mean would side with whichever is nearer to it. Mean and spread are those of the items at hand, so that
      one alone does not count, and few are brought badly.

    Divided rather than given to the nearer one: a student that cannot tell yet votes for neither, where the majority
    of its guesses would be noise and whatever bias it starts with.

    Counts are additive: sum them over micro-batches and ranks. Of classes they do not depend on how a batch is cut.

    Args:
        student_logits: `[..., classes]`, or `[..., 1]` for regression, of examples that are new to the student.
        teacher_logits: of the same shape.
        labels: `[...]`, aligned with the logits; class indices or floats, and -100 for ignored items.

    Returns:
        `(2,)`: (teacher, label), in fp32.
    """
    weigh = _weigh_values if student_logits.shape[-1] == 1 else _weigh_classes
    weight, share = weigh(student_logits, teacher_logits.float(), labels)
    votes = torch.stack([weight * share, weight * (1 - share)])
    return torch.where(labels.ne(IGNORED), votes, 0.0).flatten(1).sum(-1)


def _weigh_classes(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, the teacher's share of it) of each item, of the labels' shape."""
    chosen = teacher.argmax(-1, keepdim=True)
    labelled = labels.long().clamp(min=0).unsqueeze(-1)  # ignored items are masked later, and need an index until then
    log_total = teacher.logsumexp(-1, keepdim=True)
    weight = (teacher.gather(-1, chosen) - log_total).exp() - (teacher.gather(-1, labelled) - log_total).exp()
    share = (student.gather(-1, chosen).float() - student.gather(-1, labelled).float()).sigmoid()  # q(t)/(q(t) + q(y))
    return weight.squeeze(-1), share.squeeze(-1)


def _weigh_values(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, the teacher's share of it) of each item, of the labels' shape."""
    student, teacher, targets = student.float().squeeze(-1), teacher.squeeze(-1), labels.float()
    kept = labels.ne(IGNORED)
    mean, variance = _moments(targets, kept)
    teacher_mean, teacher_variance = _moments(teacher, kept)
    teacher = mean + (teacher - teacher_mean) * (variance / teacher_variance.clamp(min=TINY)).sqrt()
    apart = (teacher - targets).square()
    from_teacher, from_label = (student - teacher).square(), (student - targets).square()
    return apart / (apart + variance).clamp(min=TINY), from_label / (from_teacher + from_label).clamp(min=TINY)


def _moments(values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of those that are kept."""
    count = kept.sum().clamp(min=1)
    mean = torch.where(kept, values, 0.0).sum() / count
    return mean, torch.where(kept, values - mean, 0.0).square().sum() / count


@torch.no_grad()
def count_votes(student_logits: Tensor, teacher: TeacherBatch, labels: Tensor) -> Tensor:
    """`side_counts` of a batch; token by token in chunks, since all logits take more memory than the cached ones.

    Args:
        student_logits: `[examples, (length,) classes]`.
        teacher: its outputs for the same batch.
        labels: `[examples, (length)]`.

    Returns:
        `(2,)`: (teacher, label), in fp32.
    """

    def count(student: Tensor, *teacher_and_labels: Tensor) -> Tensor:
        *chunk, chunk_labels = teacher_and_labels
        return side_counts(student, teacher.logits_of(*chunk), chunk_labels)

    return sum_over_chunks(count, (student_logits, *teacher.chunked), labels)


def check_votes(logits: Tensor, labels: Tensor) -> None:
    """Refuse labels that cannot be compared with the teacher, such as those that `compute_loss_func` may take.

    Args:
        logits: `[..., classes]`, or `[..., 1]` for regression.
        labels: `[...]`, which must be class indices, or numbers for regression.

    Raises:
        ValueError: they are floats, and there are several classes.
    """
    if labels.is_floating_point() and logits.shape[-1] > 1:
        raise ValueError(
            f"lambda_rule='evidence' counts whether the student agrees with the label or with the teacher, and labels "
            f"of type {labels.dtype} do not name one of {logits.shape[-1]} classes: set lambda_rule to adaptive."
        )


class TeacherVotes(Judge):
    """The soft counts of a run, and the odds that they give.

    Odds are (teacher + prior)/(label + prior). A prior of 5 each, as of Beta(5, 5), says that before any vote they are
    even within a factor of two, one standard deviation; some ten votes weigh as much as it.

    A vote weighs in proportion to the number of votes cast up to it, so that the later half makes three quarters of
    the counts: the odds become sharper with every vote instead of staying as noisy as a fixed memory is long.

    Args:
        prior: votes that each side has from the start, > 0.
    """

    fading = 1
    saved_as = ("counts", "cast")

    def __init__(self, prior: float = 5.0) -> None:
        super().__init__(2)
        self.prior = prior

    @property
    def odds(self) -> Tensor:
        """Odds that the teacher is right where it and the label disagree: a scalar tensor, 1 before any vote."""
        teacher, label = self.sums + self.prior
        return teacher / label

    @property
    def needs(self) -> dict[str, Tensor]:
        """The odds."""
        return {"odds": self.odds}

    @property
    def logs(self) -> dict[str, Tensor]:
        """The odds, and the votes of both sides."""
        teacher, label = self.sums
        return {"evidence_teacher": teacher, "evidence_label": label, "odds": self.odds}

    def observe(
        self, student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels
    ) -> tuple[ItemWeights, Tensor | None]:
        """No weights, and `(2,)`: the votes for teacher and label.

        Raises:
            ValueError: see `check_votes`.
        """
        if self.closed:
            return NO_WEIGHTS, None
        check_votes(student_logits, items.task)
        return NO_WEIGHTS, count_votes(student_logits, teacher, items.task)

    @staticmethod
    def items(counts: Tensor) -> Tensor:
        """The votes cast."""
        return counts.sum()
