"""Scheduled weights: constant, or a function of the training progress."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from hf_kd_lambda.balancing.rules.base import Rule, Weights, require
from hf_kd_lambda.gradients.gram import Gram

FixedForm = Literal["additive", "convex"]


@dataclass(frozen=True)
class Fixed(Rule):
    """Constant weights: w for the KD loss, 1 − w (convex) or 1 (additive) for the task loss (Hinton et al. 2015).

    Args:
        kd_weight: w, in [0, 1] (convex) or [0, ∞) (additive).
        form: `convex` or `additive`.

    Raises:
        ValueError: `kd_weight` is not in [0, 1] (convex) or [0, ∞) (additive), or `form` is neither.
    """

    measures: ClassVar[bool] = False
    kd_weight: float = 0.5
    form: FixedForm = "convex"

    def __post_init__(self) -> None:
        require(self.form in get_args(FixedForm), "form", self.form, f"be one of {', '.join(get_args(FixedForm))}")
        if self.form == "convex":
            allowed = "lie in [0, 1] unless lambda_form is 'additive'"
            require(0 <= self.kd_weight <= 1, "kd_weight", self.kd_weight, allowed)
        else:
            require(0 <= self.kd_weight < math.inf, "kd_weight", self.kd_weight, "lie in [0, inf)")

    def weights(self, gram: Gram) -> Weights:
        """(1 − w, w) or (1, w)."""
        kd = torch.full_like(gram.task, self.kd_weight)
        return Weights(torch.ones_like(kd) if self.form == "additive" else 1 - kd, kd)


@dataclass(frozen=True)
class Schedule(Rule):
    """Weights w for the KD loss and 1 − w for the task loss, where w changes from `start` to `end` during training.

    By default training starts with the teacher only and ends with the labels only, so that the student can become
    better than its teacher (teacher annealing, Clark et al. 2019, BAM!).

    Args:
        start: w at the start, in [0, 1].
        end: w at the end, in [0, 1].

    Raises:
        ValueError: `start` or `end` is not in [0, 1].
    """

    needs: ClassVar[tuple[str, ...]] = ("progress",)
    measures: ClassVar[bool] = False
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "lie in [0, 1]")

    @abstractmethod
    def share(self, progress: Tensor) -> Tensor:
        """Position between `start` (0) and `end` (1), `[]`.

        Args:
            progress: p, completed share of the training, in [0, 1], `[]`.
        """

    def weights(self, gram: Gram, progress: Tensor) -> Weights:
        """(1 − w, w)."""
        share = self.share(progress.clamp(0.0, 1.0))
        kd = (self.start + (self.end - self.start) * share).expand_as(gram.task)
        return Weights(1 - kd, kd)


@dataclass(frozen=True)
class Linear(Schedule):
    """w changes linearly from `start` to `end`: by default, teacher annealing (Clark et al. 2019, BAM!)."""

    def share(self, progress: Tensor) -> Tensor:
        """p."""
        return progress


@dataclass(frozen=True)
class Cosine(Schedule):
    """w changes from `start` to `end` along half a cosine: teacher annealing with a slow start and end.

    The curve of cosine learning rates (Loshchilov & Hutter 2017, eq. 5).
    """

    def share(self, progress: Tensor) -> Tensor:
        """½(1 − cos πp)."""
        return (1 - torch.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class Step(Schedule):
    """w is `start` up to the share `at` of the training, then `end`: by default teacher first, then labels.

    The two phases of annealing KD (Jafari et al. 2021), without its changing temperature. Their equal length is our
    default.

    Args:
        at: share of the training at which w changes, in [0, 1].

    Raises:
        ValueError: `at` is not in [0, 1], or as in `Schedule`.
    """

    at: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.at <= 1, "at", self.at, "lie in [0, 1]")

    def share(self, progress: Tensor) -> Tensor:
        """1[p ≥ at]."""
        return (progress >= self.at).to(progress.dtype)
