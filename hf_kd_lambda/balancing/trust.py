"""Per-example trust: how likely the label, and how likely the teacher, is informative on an item.

Three sources give a distribution of the true class z of an item (an example or a token) with K classes:

    label y        f_L(z) = α·1[z = y] + (1 − α)/K
    teacher p      f_T(z) = β·p(z)     + (1 − β)/K
    student q      f_S(z) = γ·q(z)     + (1 − γ)/K        q: before the student was trained on this item

A source is informative with probability α, β or γ, its reliability; otherwise it is no better than chance. The
posterior of the class is P(z) ∝ f_L(z)·f_T(z)·f_S(z). Multiplied out, it has 2³ terms, one for each set of informative
sources. A term depends on the item through its *lift* alone: how much likelier the outputs are than by chance.

    informative sources     probability      lift
    at most one             the rest         1
    label, teacher          αβ(1 − γ)        K·p(y)
    label, student          α(1 − β)γ        K·q(y)
    teacher, student        (1 − α)βγ        K·Σ_z p(z)·q(z)
    all three               αβγ              K²·p(y)·q(y)

So four numbers per item are enough, whatever K is:

- The likelihood of an item is Σ probability·lift, a function of (α, β, γ). Its logarithm is summed on a grid.
- The trust r_L is the posterior probability that the label is informative, r_T that the teacher is.

Two sources reveal only how often they agree. The third one makes all reliabilities identifiable, as long as the errors
of the sources are independent. γ absorbs an overconfident student, whose errors would count against label and teacher.

References:
    Dawid & Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm": the model, with
    hard answers. Northcutt et al. 2021, "Confident Learning": out-of-sample predictions find wrong labels. The soft
    sources, the student as the third one, and the grid instead of EM are ours.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.chunked import CHUNK_LOGITS
from hf_kd_lambda.losses.functional.items import IGNORED

RELIABILITY_MARGIN = 1e-6
"""Distance of a reliability from 0 and 1, where a single item could rule a source out for good."""
GRID_ITEMS = 256  # items whose likelihoods are computed on the whole grid at a time: 3 MB


class Agreement(NamedTuple):
    """What trust needs of items `[...]`: a few numbers for each, without gradient."""

    lifts: Tensor
    """`[..., 5]` in fp32, in the order of the table above; 1 where a missing label or a masked item says nothing."""
    label: Tensor
    """`[...]`, the label's class; 0 where there is none."""
    answer: Tensor
    """`[...]`, the teacher's most probable class."""
    labelled: Tensor
    """`[...]` bool: counted items with a label."""
    counted: Tensor
    """`[...]` bool: items that are not masked."""
    amplitude: Tensor
    """`[...]`, the teacher's squared distance from chance, divided by the label's; 0 for a uniform teacher."""
    values: Tensor | None = None
    """`[..., 3]`: (label, teacher, student) for regression."""


class ItemTrust(NamedTuple):
    """Posterior probabilities that sources are informative, `[...]` each in [0, 1]."""

    label: Tensor
    """r_L, 0 for items without a label."""
    teacher: Tensor
    """r_T, 0 for masked items."""
    both: Tensor
    """That both are, 0 for items without a label."""


def binary_logits(logits: Tensor) -> Tensor:
    """Two-class logits `[..., 2]` of a sigmoid's logits `[...]`: each of several labels is an item."""
    return torch.stack([torch.zeros_like(logits), logits], dim=-1)


@torch.no_grad()
def class_agreement(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, counted: Tensor | None = None
) -> Agreement:
    """Lifts of items with K classes, from logits in any precision. Logits may be -inf.

    For a vocabulary, call it on chunks of items: it needs about three fp32 copies of the logits it is given.

    Args:
        student_logits: `[..., K]`, from before the student was trained on these items.
        teacher_logits: `[..., K]`, at temperature 1.
        labels: `[...]`, class indices; -100 where an item has no label.
        counted: `[...]` bool, False for padding and other positions that are not items. Default: all are items.
    """
    classes = student_logits.shape[-1]
    counted = torch.ones_like(labels, dtype=torch.bool) if counted is None else counted.bool()
    labelled = counted & labels.ne(IGNORED)
    label = labels.long().masked_fill(~labelled, 0)
    student, teacher = (x.float().masked_fill(~counted.unsqueeze(-1), 0.0) for x in (student_logits, teacher_logits))
    log_student, log_teacher = student.logsumexp(-1), teacher.logsumexp(-1)
    q_label = student.gather(-1, label.unsqueeze(-1)).squeeze(-1) - log_student
    p_label = teacher.gather(-1, label.unsqueeze(-1)).squeeze(-1) - log_teacher
    q_teacher = (student + teacher).logsumexp(-1) - log_student - log_teacher  # log Σ_z p(z)·q(z)
    p_squared = ((2 * teacher).logsumexp(-1) - 2 * log_teacher).exp()  # Σ_z p(z)²

    by_chance = torch.zeros_like(q_label)
    teacher_student = math.log(classes) + q_teacher
    with_label = (math.log(classes) + p_label, math.log(classes) + q_label, 2 * math.log(classes) + p_label + q_label)
    without = (by_chance, by_chance, teacher_student)  # every class is equally likely to be the label
    label_teacher, label_student, all_three = (
        torch.where(labelled, known, unknown) for known, unknown in zip(with_label, without, strict=True)
    )
    logs = torch.stack([by_chance, label_teacher, label_student, teacher_student, all_three], dim=-1)
    lifts = torch.where(counted.unsqueeze(-1), logs.exp(), 1.0)
    amplitude = torch.where(counted, (classes * p_squared - 1) / max(classes - 1, 1), 0.0).clamp(0, 1)
    return Agreement(lifts, label, teacher.argmax(-1), labelled, counted, amplitude)


def in_chunks(
    agreement_of: Callable[..., Agreement],
    student_logits: Tensor,
    teacher: TeacherBatch,
    labels: Tensor,
    counted: Tensor,
) -> Agreement:
    """`class_agreement` of a batch; for tokens chunk by chunk, since fp32 copies of all logits take much memory.

    Args:
        agreement_of: see `Reliabilities.agreement`.
        student_logits: `[examples, (length,) K]`.
        teacher: its outputs for the same batch.
        labels, counted: `[examples, (length)]`.
    """
    if labels.dim() == 1:
        return agreement_of(student_logits, teacher.logits, labels, counted)
    size = max(1, CHUNK_LOGITS // student_logits.shape[-1])
    tensors = (student_logits, labels, counted, *teacher.chunked)
    chunks = zip(*(tensor.flatten(0, 1).split(size) for tensor in tensors), strict=True)
    parts = [agreement_of(student, teacher.logits_of(*chunk), y, kept) for student, y, kept, *chunk in chunks]
    joined = {
        name: torch.cat([getattr(part, name) for part in parts]).unflatten(0, labels.shape)
        for name, value in parts[0]._asdict().items()
        if value is not None
    }
    return Agreement(**joined)


def group_probabilities(label: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
    """Probabilities `[..., 5]` of the table's rows, from reliabilities α, β and γ that broadcast to `[...]`."""
    no_label, no_teacher, no_student = 1 - label, 1 - teacher, 1 - student
    at_most_one = (
        no_label * no_teacher * no_student
        + label * no_teacher * no_student
        + no_label * teacher * no_student
        + no_label * no_teacher * student
    )
    groups = (
        at_most_one,
        label * teacher * no_student,
        label * no_teacher * student,
        no_label * teacher * student,
        label * teacher * student,
    )
    return torch.stack(torch.broadcast_tensors(*groups), dim=-1)


@torch.no_grad()
def posterior(
    agreement: Agreement, label: Tensor | float, teacher: Tensor | float, student: Tensor | float = 1.0
) -> ItemTrust:
    """The E step: the trust in label and teacher on each item, by Bayes' rule.

    Args:
        agreement: of items `[...]`.
        label: α, a scalar, or `[K]` by the label's class.
        teacher: β, a scalar, or `[K]` by the teacher's most probable class.
        student: γ, a scalar; 1 takes the student's distribution as it is.
    """
    alpha, beta, gamma = (
        torch.as_tensor(x, device=agreement.lifts.device).clamp(RELIABILITY_MARGIN, 1 - RELIABILITY_MARGIN)
        for x in (label, teacher, student)
    )
    alpha = alpha[agreement.label] if alpha.dim() else alpha
    beta = beta[agreement.answer] if beta.dim() else beta
    joint = agreement.lifts * group_probabilities(alpha, beta, gamma)
    total = joint.sum(-1)
    _, label_teacher, label_student, teacher_student, all_three = joint.unbind(-1)
    label_alone = alpha * (1 - beta) * (1 - gamma)
    teacher_alone = (1 - alpha) * beta * (1 - gamma)
    r_label = (label_alone + label_teacher + label_student + all_three) / total
    r_teacher = (teacher_alone + label_teacher + teacher_student + all_three) / total
    r_both = (label_teacher + all_three) / total
    return ItemTrust(
        torch.where(agreement.labelled, r_label, 0.0),
        torch.where(agreement.counted, r_teacher, 0.0),
        torch.where(agreement.labelled, r_both, 0.0),
    )


@torch.no_grad()
def log_likelihoods(lifts: Tensor, groups: Tensor) -> Tensor:
    """Log-likelihood log Σ probability·lift of items, at several reliabilities at once.

    Args:
        lifts: `[items, 5]`.
        groups: `[cells, 5]`, from `group_probabilities`.

    Returns:
        `[items, cells]`.
    """
    with _without_autocast(lifts.device.type):  # bf16 has three digits
        return (lifts @ groups.T).log_()


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if available else nullcontext()


def grid(size: int) -> Tensor:
    """Reliabilities `[size]` in (0, 1), sin²(π(i + ½)/2·size): equal weights are Jeffreys' prior Beta(½, ½)."""
    return torch.sin(math.pi / 2 * (torch.arange(size) + 0.5) / size).square()


class Reliabilities:
    """The reliabilities α, β and γ of a run, estimated while it trains.

    The log-likelihood of all items so far is kept on a grid of 20·20·8 reliabilities. It is a sum over items, so that
    micro-batches and ranks add up, in any order. Reliabilities are means of the posterior under Jeffreys' prior. EM
    would need several passes over the items: one streaming pass leaves α or β wrong by up to 0.45 at a weak student.

    Older items fade, because the student improves: an item counts in proportion to the number of items up to it, so
    that the later half makes three quarters of the sums. Only the first pass over the data counts. After it `closed`
    is set, and the reliabilities stay as they are; only the running means of trust go on.

    With `classes`, α also depends on the label's class, and β on the teacher's most probable class. The reliability of
    one class has the prior Beta(50·α, 50·(1 − α)): with far fewer than 50 items, it is that of all classes.

    All state is tensors on the logits' device. Updating it does not synchronise.

    Attributes:
        closed: whether the student has been trained on all items, so that reliabilities stay as they are.

    Args:
        classes: K, for reliabilities by class; None for vocabularies and regression.
        pooling: number of items that the prior of a class counts for, > 0.
    """

    _sums: tuple[str, ...] = ("likelihood", "class_likelihood", "totals")

    def __init__(self, classes: int | None = None, pooling: float = 50.0) -> None:
        self.pooling = pooling
        self.closed = False
        self.nodes, self.student_nodes = grid(20), grid(8)
        cells = torch.meshgrid(self.nodes, self.nodes, self.student_nodes, indexing="ij")
        self.groups = group_probabilities(*cells).flatten(0, -2)
        self.likelihood = torch.zeros_like(cells[0])  # by α, β and γ
        self.class_likelihood = torch.zeros(2, classes or 0, len(self.nodes))  # (label, teacher), class, reliability
        self.totals = torch.zeros(5)  # r_L, labelled items, r_T, items, amplitude
        self.seen = torch.zeros(())

    @property
    def label(self) -> Tensor:
        """α, a scalar; 0.5 before any item."""
        return self._marginal((1, 2), self.nodes)

    @property
    def teacher(self) -> Tensor:
        """β, a scalar; 0.5 before any item."""
        return self._marginal((0, 2), self.nodes)

    @property
    def student(self) -> Tensor:
        """γ, a scalar; 0.5 before any item."""
        return self._marginal((0, 1), self.student_nodes)

    @property
    def label_by_class(self) -> Tensor:
        """α `[K]` of the label's class."""
        return self._by_class(self.class_likelihood[0], self.label)

    @property
    def teacher_by_class(self) -> Tensor:
        """β `[K]` of the teacher's most probable class."""
        return self._by_class(self.class_likelihood[1], self.teacher)

    @property
    def informative(self) -> Tensor:
        """How far the teacher's targets are from chance, relative to the labels: a scalar in [0, 1], 0 if uniform.

        √((K·Σp² − 1)/(K − 1)) of the mean Σp²; 1 before any item. At a student that knows nothing, it is the length of
        the KD gradient relative to the task gradient, at the logits.
        """
        items, amplitude = self.totals[3:]
        return torch.where(items > 0, amplitude / items.clamp(min=1), 1.0).sqrt()

    @property
    def factor(self) -> Tensor:
        """informative·β/α, a scalar: what multiplies the ratio of gradient lengths √(a/b) to give λ.

        β/α undoes the division by the mean in `normalise`: an item's λ is then proportional to r_T/r_L. `informative`
        undoes that √(a/b) enlarges faint targets: a student that knows nothing starts at λ = β/α, and a uniform
        teacher, whose β stays at 0.5, gets λ = 0.
        """
        return self.informative * self.teacher / self.label

    def agreement(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, counted: Tensor | None = None
    ) -> Agreement:
        """See `class_agreement`."""
        return class_agreement(student_logits, teacher_logits, labels, counted)

    def trust(self, agreement: Agreement) -> ItemTrust:
        """r_L and r_T of items, from the reliabilities so far."""
        self.to(agreement.lifts.device)
        if not self.class_likelihood.numel():
            return posterior(agreement, self.label, self.teacher, self.student)
        return posterior(agreement, self.label_by_class, self.teacher_by_class, self.student)

    def normalise(self, trust: ItemTrust) -> tuple[Tensor, Tensor]:
        """Item weights (label, teacher) `[...]`: trust divided by its running mean, so that weights average to 1."""
        label, labelled, teacher, items, _ = self.totals
        # α and β count for one item.
        return trust.label * (labelled + 1) / (label + self.label), trust.teacher * (items + 1) / (
            teacher + self.teacher
        )

    def counts(self, agreement: Agreement) -> Tensor:
        """What items contribute to `update`: one flat fp32 tensor. Sum it over micro-batches and ranks."""
        trust = self.trust(agreement)
        return torch.cat([part.flatten() for part in self._contributions(agreement, trust)])

    def update(self, counts: Tensor) -> None:
        """Take in the counts of one step. Counts that are not finite are ignored.

        Args:
            counts: from `counts`, summed over micro-batches and ranks.
        """
        self.to(counts.device)
        new = self._split(torch.where(counts.isfinite().all(), counts, 0.0))
        seen = self.seen + new["totals"][3]
        kept = self.seen / seen.clamp(min=1)
        for name in ("totals",) if self.closed else self._sums:
            setattr(self, name, kept * getattr(self, name) + new[name])
        self.likelihood = self.likelihood - self.likelihood.max()  # only differences matter, and fp32 keeps them
        self.seen = seen

    def _contributions(self, agreement: Agreement, trust: ItemTrust) -> tuple[Tensor, ...]:
        """What items add to the tensors named in `_sums`."""
        lifts = agreement.lifts.flatten(0, -2)
        likelihood = torch.zeros_like(self.groups[:, 0])
        for chunk in lifts.split(GRID_ITEMS):
            likelihood = likelihood + log_likelihoods(chunk, self.groups).sum(0)

        class_likelihood = torch.zeros_like(self.class_likelihood)
        if class_likelihood.numel():
            by_label = log_likelihoods(lifts, group_probabilities(self.nodes, self.teacher, self.student))
            by_answer = log_likelihoods(lifts, group_probabilities(self.label, self.nodes, self.student))
            class_likelihood[0].index_add_(0, agreement.label.flatten(), by_label)
            class_likelihood[1].index_add_(0, agreement.answer.flatten(), by_answer)

        totals = (trust.label, agreement.labelled, trust.teacher, agreement.counted, agreement.amplitude)
        return likelihood, class_likelihood, torch.stack([total.float().sum() for total in totals])

    def _split(self, counts: Tensor) -> dict[str, Tensor]:
        """`counts` by the names in `_sums`."""
        shapes = [getattr(self, name).shape for name in self._sums]
        parts = counts.split([shape.numel() for shape in shapes])
        return {name: part.view(shape) for name, part, shape in zip(self._sums, parts, shapes, strict=True)}

    def _marginal(self, others: tuple[int, int], nodes: Tensor) -> Tensor:
        """Posterior mean of one reliability; the grid's two other dimensions are summed out."""
        density = self.likelihood.flatten().softmax(0).view_as(self.likelihood)
        return (density.sum(others) * nodes).sum()

    def _by_class(self, likelihood: Tensor, mean: Tensor) -> Tensor:
        """Posterior means `[K]` under the prior Beta(pooling·mean, pooling·(1 − mean)); the nodes are Beta(½, ½)."""
        informative = (self.pooling * mean - 0.5) * self.nodes.log()
        otherwise = (self.pooling * (1 - mean) - 0.5) * (1 - self.nodes).log()
        return ((likelihood + informative + otherwise).softmax(-1) * self.nodes).sum(-1)

    def to(self, device: torch.device) -> None:
        """Move the state to the device of the logits."""
        for name in (*self._sums, "seen", "nodes", "student_nodes", "groups"):
            setattr(self, name, getattr(self, name).to(device))

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values, whose numbers hold an fp32 exactly."""
        tensors = {name: getattr(self, name).flatten().tolist() for name in (*self._sums, "seen")}
        return tensors | {"closed": self.closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name in (*self._sums, "seen"):
            shape = getattr(self, name).shape
            setattr(self, name, torch.tensor(state[name], dtype=torch.float32).view(shape))
        self.closed = state["closed"]
