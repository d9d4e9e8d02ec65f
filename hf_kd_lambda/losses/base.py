"""What a KD loss is, and what it is computed from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor


class Given(NamedTuple):
    """A batch as student and teacher see it."""

    student: Mapping[str, Any]
    """Outputs of the student by name: `logits`, and what of `hidden_states`, `attentions`, `relations` is needed."""
    teacher: Mapping[str, Any]
    """Those of the teacher, without gradient."""
    attention_mask: Tensor | None
    """`[examples, length]`, 0 at padding; None where there is no padding, or where inputs are no tokens."""
    labels: Tensor
    """`[examples]` or `[examples, length]`."""
    num_items: Tensor | int
    """What sums over items are divided by."""
    temperature: float


@dataclass(frozen=True)
class KDLoss(ABC):
    """A KD loss with its hyper-parameters: a frozen dataclass.

    Attributes:
        needs: outputs of both models beside the logits.
        projects: whether the layers that it compares must be of the same width.

    Args:
        weight: in the sum of all KD losses, > 0.

    Raises:
        ValueError: a hyper-parameter is out of its range.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    projects: ClassVar[bool] = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight={self.weight} must be a positive finite number.")

    @abstractmethod
    def __call__(self, given: Given) -> Tensor:
        """The loss without its weight, a scalar in fp32.

        Raises:
            ValueError: student and teacher do not fit each other.
        """

    def pairs(self, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Which layers of student and teacher are compared: indices of what `needs` names; none by default.

        Raises:
            ValueError: there are no such layers.
        """
        return []


PROJECTED = "projected_states"
"""Name of the outputs that are the student's hidden states, those projected that have a projection."""
