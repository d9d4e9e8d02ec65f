"""α and β of items with classes, estimated during training by the two EM steps of `trust`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_kd_lambda.balancing.reliabilities import LARGEST_RELIABILITY, PRIOR, ItemTrust, Reliabilities
from hf_kd_lambda.balancing.trust import (
    ClassPosterior,
    Views,
    class_counts,
    class_posterior,
    item_trust,
    output_sums,
    views_of_each,
)
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.chunked import chunks
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import ItemWeights

COUNTED_CLASSES = range(3, 101)
"""Numbers of classes for which every class has its own reliabilities.

With two classes, a class that the labels miss is hard to distinguish from one that the teacher misses: in a
simulation the trust found fewer wrong labels than with shared reliabilities."""
COUNTED_OUTPUTS = range(2, 101)
"""Numbers of classes for which ρ, the mean output of a teacher, is counted; otherwise it is taken to be 1/K."""
SHRINKAGE = 50.0
"""Weight of the reliabilities of all classes in those of one class: as much as about 150 items of the class."""
LARGEST_FACTOR = 4.0
"""Of 1/√(1 − β) in `ratio`, reached at β = 0.94. Without it, λ of most runs would be `lambda_max`."""


class ClassReliabilities(Reliabilities):
    """α and β of items with classes: one per class if their number is in `COUNTED_CLASSES`, otherwise one for all.

    Args:
        classes: number of classes of an item; 0 if it varies.
        teacher_weights: see `Reliabilities`.
    """

    def __init__(self, classes: int = 0, teacher_weights: Sequence[float] = (1.0,)) -> None:
        self._classes = classes if classes in COUNTED_CLASSES else 1
        self._outputs = classes if classes in COUNTED_OUTPUTS else 0
        teachers = len(teacher_weights)
        super().__init__((1 + teachers) * 2 * self._classes + teachers * self._outputs, teacher_weights)

    def _parts(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of `annotators`, and those of the teachers' outputs, `[teachers, K or 0]`."""
        annotators, outputs = sums.tensor_split([(1 + len(self.teacher_weights)) * 2 * self._classes])
        return annotators.view(-1, 2, self._classes), outputs.view(len(self.teacher_weights), self._outputs)

    @property
    def annotators(self) -> Tensor:
        """`[1 + teachers, 2, K or 1]`: see `Reliabilities.annotators`."""
        return self._parts(self.sums)[0]

    @property
    def of_classes(self) -> Tensor:
        """α, then β of every teacher, for every class, `[1 + teachers, K]`; or `[1 + teachers, 1]` for all classes.

        Those of a class are shrunk towards those of all classes.
        """
        of_all = self.of_annotators.unsqueeze(-1)
        if self._classes == 1:
            return of_all
        informative, items = self.annotators.unbind(1)
        return ((informative + of_all * SHRINKAGE) / (items + SHRINKAGE)).clamp(max=LARGEST_RELIABILITY)

    @property
    def ratio(self) -> Tensor:
        """β/α · min(1/√(1 − β), `LARGEST_FACTOR`), a scalar: see `Reliabilities.ratio`.

        The distribution of a reliable teacher says more of an item than its label does, also if that is right. So KD
        weighs more, the less the teacher guesses. The square root was chosen by experiment.
        """
        return super().ratio * (1 - self.beta).rsqrt().clamp(max=LARGEST_FACTOR)

    @property
    def alpha_of_classes(self) -> Tensor:
        """α of every class, `[K]`, or `[1]` for all classes."""
        return self.of_classes[0]

    @property
    def betas_of_classes(self) -> list[Tensor]:
        """β of every teacher and class, `[K]` each, or `[1]` for all classes."""
        return list(self.of_classes[1:])

    @property
    def mean_outputs(self) -> list[Tensor | None]:
        """ρ of every teacher, `[K]` each; None if it is not counted."""
        if not self._outputs:
            return [None] * len(self.teacher_weights)
        sums = self._parts(self.sums)[1]
        return list((sums + PRIOR / self._outputs) / (sums.sum(-1, keepdim=True) + PRIOR))

    def observe(
        self, student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels
    ) -> tuple[ItemWeights, Tensor | None]:
        """Per-item weights from the trust in label and teachers, and counts for the M step of the first pass.

        Tokens are judged chunk by chunk, to save memory.

        Raises:
            ValueError: there are several teachers, but the batch has the logits of one.
        """
        if len(self.teacher_weights) > 1 and not teacher.members:
            raise ValueError(
                f"lambda_rule='trust' judges each of {len(self.teacher_weights)} teachers, but the examples' column "
                "teacher_logits has the logits of one: remove that column, or give a single teacher."
            )
        tensors = (student_logits, items.kd, *teacher.chunked_members)
        trusts, counts = [], []
        for student, kd, *chunk, task in chunks(tensors, items.task):
            trust, count = self.judge(student, teacher.member_logits_of(*chunk), ItemLabels(task, kd))
            trusts.append(trust)
            counts.append(count)
        whole = [_joined(parts, items.kd.shape) for parts in zip(*trusts, strict=True)]
        return self.weights(*whole), None if self.closed else torch.stack(counts).sum(0)

    def judge(
        self, student_logits: Tensor, teacher_logits: Sequence[Tensor], items: ItemLabels
    ) -> tuple[list[ItemTrust], Tensor]:
        """Trust in the label and every teacher with the current α and β, and counts for `update`.

        Args:
            student_logits: `[..., K]`.
            teacher_logits: `[..., K]` of every teacher, at temperature 1.
            items: labels `[...]`.

        Returns:
            The trust, once for every teacher, and counts, additive over micro-batches and ranks.
        """
        alpha, betas = self.alpha_of_classes, self.betas_of_classes
        trusts, counts = [], []
        all_views = views_of_each(student_logits, teacher_logits, items, betas, self.mean_outputs)
        for views, beta in zip(all_views, betas, strict=True):
            parts = class_posterior(views, alpha, beta)
            trusts.append(item_trust(views, parts))
            counts.append(self._counts(views, parts, trusts[-1]))
        annotators = torch.stack([counts[0][0], *(of_teacher for _, of_teacher in counts)])
        outputs = [output_sums(views) for views in all_views if self._outputs]
        return trusts, torch.cat([annotators.flatten(), *outputs])

    def _counts(self, views: Views, parts: ClassPosterior, trust: ItemTrust) -> Tensor:
        """`[2, 2, K or 1]`, of the label and of one teacher: see `class_counts`; of all classes, Σr and items."""
        if self._classes > 1:
            return class_counts(views, parts)
        sums = (trust.label, views.labelled, trust.teacher, views.counted)
        return torch.stack([values.float().sum() for values in sums]).view(2, 2, 1)

    def num_items(self, counts: Tensor) -> Tensor:
        """The number of items."""
        annotators, _ = self._parts(counts)
        _, items = annotators[1]
        return items.sum()


def _joined(parts: Sequence[ItemTrust], shape: torch.Size) -> ItemTrust:
    return ItemTrust(*(torch.cat(part).view(shape) for part in zip(*parts, strict=True)))
