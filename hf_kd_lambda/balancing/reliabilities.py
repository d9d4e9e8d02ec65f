"""Base class of the reliabilities of label and teacher: their means, and the weights of items."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from hf_kd_lambda.balancing.judge import Judge
from hf_kd_lambda.losses.objective import ItemWeights


class ItemTrust(NamedTuple):
    """Probabilities in [0, 1] that label and teacher are informative, both `[...]`."""

    label: Tensor
    """r_L; 0 without a label."""
    teacher: Tensor
    """r_T; 0 at positions that are not items."""


class Reliabilities(Judge):
    """α and β, estimated during training: the informative share of the labels and of the teacher's outputs.

    Older items fade, also because their r_L and r_T come from the initial α and β: with `fading` 2, the later half of
    the items has seven eighths of the weight. After the first pass over the data, α and β are constant.

    Args:
        size: number of sums.
        initial: α and β before the first item, in (0, 1).
        prior: weight of `initial`, as a number of items, > 0.
    """

    fading = 2

    def __init__(self, size: int, initial: float = 0.8, prior: float = 5.0) -> None:
        super().__init__(size)
        self.initial = initial
        self.prior = prior

    @property
    @abstractmethod
    def totals(self) -> Tensor:
        """`[4]`: Σr_L, labelled items, Σr_T, items."""

    @property
    def label(self) -> Tensor:
        """α, a scalar."""
        return self._mean(0)

    @property
    def teacher(self) -> Tensor:
        """β, a scalar."""
        return self._mean(2)

    def _mean(self, first: int) -> Tensor:
        informative, items = self.totals[first : first + 2]
        return (informative + self.initial * self.prior) / (items + self.prior)

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

    def weights(self, trust: ItemTrust) -> ItemWeights:
        """Per-item weights of task loss and KD loss, both `[...]`: trust divided by its mean, so their mean is 1."""
        return ItemWeights(trust.label / self.label, trust.teacher / self.teacher)
