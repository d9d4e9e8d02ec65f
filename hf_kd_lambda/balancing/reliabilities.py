"""Base class of the reliabilities of label and teachers: their means, and the weights of items."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.balancing.judge import TINY, Judge
from hf_kd_lambda.losses.objective import ItemWeights

INITIAL = 0.8
"""α and β before the first item."""
PRIOR = 5.0
"""Weight of `INITIAL`: as much as about 15 items, since later ones count more; 25 in a regression."""
LARGEST_RELIABILITY = 1 - 1e-6
"""Largest α and β. For clean items, Σr is so close to their number that rounding errors could lift α and β above 1."""


class ItemTrust(NamedTuple):
    """Probabilities in [0, 1] that label and teacher are informative, both `[...]`."""

    label: Tensor
    """r_label; 0 without a label."""
    teacher: Tensor
    """r_teacher; 0 at positions that are not items."""


class Reliabilities(Judge):
    """α and β, estimated during training: the informative share of the labels and of the teacher's outputs.

    Several teachers m have a β_m each. With weights w_m, the β of all together is Σ w_m·β_m, and the trust in all
    together on an item is Σ w_m·r_m. The soft targets of the item are the mean of their logits, weighted by w_m·r_m.

    Older items fade, also because their r_label and r_teacher come from the initial α and β: with `fading` 2, the
    later half of the items has seven eighths of the weight. After the first pass over the data, α and β are constant.

    Args:
        size: number of sums.
        teacher_weights: w_m of every teacher, > 0; they sum to 1.
    """

    fading = 2

    def __init__(self, size: int, teacher_weights: Sequence[float] = (1.0,)) -> None:
        super().__init__(size)
        self.teacher_weights = teacher_weights

    @property
    @abstractmethod
    def annotators(self) -> Tensor:
        """`[1 + teachers, 2, K or 1]`: Σr and number of items, of the label, then of every teacher."""

    @property
    def of_annotators(self) -> Tensor:
        """α, then β of every teacher, `[1 + teachers]`."""
        informative, items = self.annotators.sum(-1).unbind(-1)
        return ((informative + INITIAL * PRIOR) / (items + PRIOR)).clamp(max=LARGEST_RELIABILITY)

    @property
    def alpha(self) -> Tensor:
        """α, a scalar."""
        return self.of_annotators[0]

    @property
    def beta(self) -> Tensor:
        """β of all teachers together, a scalar."""
        return self.mean(self.betas)

    @property
    def betas(self) -> list[Tensor]:
        """β of every teacher, scalars."""
        return list(self.of_annotators[1:])

    def mean(self, values: Sequence[Tensor]) -> Tensor:
        """The mean over the teachers, weighted by w_m; the value itself with one teacher."""
        return self._weighted(values).sum(-1)

    def _weighted(self, values: Sequence[Tensor]) -> Tensor:
        """The values of all teachers times w_m, `[..., teachers]`."""
        pairs = zip(self.teacher_weights, values, strict=True)
        return torch.stack([weight * value for weight, value in pairs], dim=-1)

    @property
    def ratio(self) -> Tensor:
        """Factor of λ, a scalar: β/α.

        Items have the weights r_label/α and r_teacher/β, so that of an item is r_teacher/r_label.
        """
        return self.beta / self.alpha

    @property
    def rule_inputs(self) -> dict[str, Tensor]:
        """The factor of λ."""
        return {"trust_ratio": self.ratio}

    @property
    def logs(self) -> dict[str, Tensor]:
        """The reliabilities of label and teacher; with several teachers, that of every one too."""
        betas = self.betas if len(self.teacher_weights) > 1 else []
        of_each = {f"teacher_reliability_{index}": value for index, value in enumerate(betas)}
        labels = self.annotators[0].sum(-1)[1]
        alpha = torch.where(labels > 0, self.alpha, math.nan)  # without any label: NaN, which is not logged
        return {"label_reliability": alpha, "teacher_reliability": self.beta, **of_each}

    @property
    def evaluation_weights(self) -> Tensor | None:
        """w_m·β_m, divided by their sum, `[teachers]`: weights in the soft targets of items that are not judged."""
        return self._normalised(self.betas)

    def weights(self, *trusts: ItemTrust) -> ItemWeights:
        """Per-item weights of task loss and KD loss, both `[...]`: trust divided by its mean, so their mean is 1.

        Args:
            trusts: trust in the label and in one teacher, for every teacher.
        """
        teachers = [trust.teacher for trust in trusts]
        return ItemWeights(trusts[0].label / self.alpha, self.mean(teachers) / self.beta, self._normalised(teachers))

    def _normalised(self, values: Sequence[Tensor]) -> Tensor | None:
        """The values times w_m, divided by their sum, `[..., teachers]`; None with one teacher."""
        if len(self.teacher_weights) == 1:
            return None
        weighted = self._weighted(values)
        return weighted / weighted.sum(-1, keepdim=True).clamp(min=TINY)
