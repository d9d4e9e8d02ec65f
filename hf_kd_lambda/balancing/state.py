"""The state of λ during a run: averages of measurements, what limited λ, and their place in a checkpoint."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.balancing.judge import Judge
from hf_kd_lambda.balancing.kd_split import KDSplit
from hf_kd_lambda.balancing.moving_average import MovingAverage
from hf_kd_lambda.balancing.number_trust import NumberReliabilities, Unit
from hf_kd_lambda.balancing.reliabilities import Reliabilities
from hf_kd_lambda.balancing.rules import Rule, Weights, feasible_interval, loss_weights
from hf_kd_lambda.balancing.rules.common_descent import MGDA
from hf_kd_lambda.balancing.signal import Signal, bounded_signal
from hf_kd_lambda.balancing.smoothness import Smoothness
from hf_kd_lambda.balancing.teacher_signal import TeacherSignal
from hf_kd_lambda.balancing.votes import TeacherVotes
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.utils.log_keys import LIMIT_KEYS, LIMIT_NAMES

SMALLEST_SQUARED_NORM = torch.finfo(torch.float32).tiny
"""A smaller squared norm is subnormal; it has lost precision, and its average may be 0."""
ON_EDGE = 1e-5  # relative distance from an end of the feasible interval within which λ is logged as clipped


class Measurement(NamedTuple):
    """The measurement of an optimizer step, on the training device."""

    gram: Gram
    """Entries `[]`, or `[groups]` if every group of parameters has its own λ."""
    losses: Tensor
    """`[2]`: task_loss and kd_loss."""
    norms: Tensor
    """`[2]` or `[2, groups]`: a and b with noise; those of `gram`, if it includes the noise."""


def _reliabilities(classes: int, teacher_weights: Sequence[float] | None, unit: Unit | None) -> Reliabilities:
    if classes == 1:
        return NumberReliabilities(unit)
    return ClassReliabilities(classes, teacher_weights or (1.0,))


class LambdaState:
    """Averages measurements, applies a rule to the averages and bounds the resulting λ.

    The Gram matrix of a single batch is noisy, so a, b and c are averaged. λ itself is not: the skew of the ratio
    would bias its average. The state consists of tensors on the device of the gradients, so an update never
    synchronizes.

    Args:
        rule: maps the averages to weights of the losses; λ is their ratio.
        decay: decay of the moving averages, in [0, 1).
        bounds: smallest and largest λ.
        max_change: bound of |Δ log λ| between measurements; it does not apply to the first one.
        form: form of the weights, see `loss_weights`.
        num_groups: number of parameter groups that have their own λ; None for a single λ.
        kd_weights: weights of the KD losses, if every one has its own λ, see `KDSplit`; None for a single λ.
        classes: number of classes of an item; 1 for regression, 0 if it varies.
        teacher_weights: weights of the teachers, if every one has its own reliability; None for one.
        unit: centre and width of the labels of a regression, see `unit_of`; None where they are not known.
    """

    def __init__(
        self,
        rule: Rule,
        decay: float,
        bounds: tuple[float, float],
        max_change: float,
        form: str = "convex",
        num_groups: int | None = None,
        kd_weights: Sequence[float] | None = None,
        classes: int = 0,
        teacher_weights: Sequence[float] | None = None,
        unit: Unit | None = None,
    ) -> None:
        shape = () if num_groups is None else (num_groups,)
        self.rule = rule
        self.bounds = bounds
        self.max_factor = math.exp(max_change)
        self.form = form
        self.lambda_ = torch.ones(shape).clamp(*bounds)  # before the first measurement
        self.total = torch.ones(shape)
        self.grams = MovingAverage(5, shape, decay)  # a, b and c, without noise if estimated; a and b with noise
        self.losses = MovingAverage(2, (), decay)
        self.first_losses = torch.ones(2)
        self.skipped = torch.zeros((), dtype=torch.int32)
        self.counts = torch.zeros(1 + len(LIMIT_NAMES))
        self.votes = TeacherVotes() if "odds" in rule.needs else None
        self.trust = _reliabilities(classes, teacher_weights, unit) if "trust_ratio" in rule.needs else None
        self.teacher_signal = None if self.judge is None else TeacherSignal()
        self.smoothness = Smoothness() if "smoothness" in rule.needs else None
        self.split = None if kd_weights is None else KDSplit(kd_weights, decay, mgda=isinstance(rule, MGDA))

    @property
    def judge(self) -> Judge | None:
        """Votes or trust; None if the rule needs neither."""
        return self.votes or self.trust

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        """The current (w_task, w_kd), both `[]` or `[groups]`."""
        return loss_weights(self.lambda_, self.form, self.total)

    @property
    def mean_weights(self) -> tuple[Tensor, Tensor]:
        """`weights` as scalars: with one λ per layer, those of the geometric mean of λ."""
        if not self.lambda_.dim():
            return self.weights
        return loss_weights(self.lambda_.log().mean().exp(), self.form, self.total.mean())

    @property
    def lambdas(self) -> Tensor:
        """λ of every parameter group, `[groups]`, or of every KD loss, `[losses]`; a single λ is `[1]`."""
        return (self.lambda_ if self.split is None else self.lambda_ * self.split.weights).view(-1)

    @property
    def signal(self) -> Signal:
        """The averaged Gram matrix without noise, and its share of signal, which is 1 if noise is not estimated."""
        task, kd, dot, *norms = self.grams.value
        return bounded_signal(Gram(task, kd, dot), torch.stack(norms))

    @property
    def signal_to_noise(self) -> Tensor:
        """`[2]`: signal/noise of task and KD gradient, over all groups; infinite if noise is not estimated."""
        gram = self.signal.gram
        signal = torch.stack([gram.task.sum(), gram.kd.sum()])
        noise = self.grams.value[3:].reshape(2, -1).sum(dim=1) - signal
        return signal / noise.clamp(min=0.0)

    def update(self, measured: Measurement) -> None:
        """Set λ from a measurement. It is only counted if it is not finite or a gradient vanishes."""
        self.to(measured.losses.device)
        entries, norms = torch.stack(measured.gram), measured.norms
        finite = entries.isfinite().all() & norms.isfinite().all()
        usable = finite & (norms > SMALLEST_SQUARED_NORM).all(dim=0)
        first = self.grams.is_empty
        self.grams.update(torch.cat([entries, norms]), usable)
        self._take_losses(measured.losses, finite)
        limits = self._set_lambda(usable, first)
        self._count(limits, measured.gram.dot < 0, finite)

    def _take_losses(self, losses: Tensor, finite: Tensor) -> None:
        usable = finite & losses.isfinite().all() & (losses != 0).all()  # 0: no item, as in a batch without labels
        self.first_losses = torch.where(usable & self.losses.is_empty, losses, self.first_losses)
        self.losses.update(losses, usable)

    def _rule_inputs(self, signal: Signal) -> dict[str, Tensor]:
        """Inputs of the rule in addition to the Gram matrix."""
        losses = self.losses.value
        inputs = {"losses": losses, "rates": losses / self.first_losses, "signal_share": signal.share}
        if self.judge is not None:
            inputs |= self.judge.rule_inputs
        if self.smoothness is not None:
            inputs["smoothness"] = self.smoothness.value
        return {name: inputs[name] for name in self.rule.needs}

    def _set_lambda(self, usable: Tensor, first: Tensor) -> Tensor:
        """Set λ and the sum of weights where `usable`; return what limited λ, as indices of `LIMIT_NAMES`."""
        signal = self.signal
        weights: Weights = self.rule(signal.gram, **self._rule_inputs(signal))
        factor = torch.ones_like(weights.task) if self.teacher_signal is None else self.teacher_signal.factor
        proposed = factor * weights.kd / weights.task
        low, high = self.lambda_ / self.max_factor, self.lambda_ * self.max_factor
        slowed = torch.where(first, proposed, torch.minimum(torch.maximum(proposed, low), high))
        lowest_lambda = factor * self.bounds[0]  # a teacher without information gets no weight
        bounded = slowed.clamp(min=lowest_lambda).clamp(max=self.bounds[1])
        usable = usable & bounded.isfinite()
        self.lambda_ = torch.where(usable, bounded, self.lambda_)
        # For `raw`: where λ is limited, weights (1, λ) keep the 1, and all others their sum, since w_task may be 0.
        total = torch.where(weights.task == 1, 1 + bounded, weights.task + weights.kd)
        self.total = torch.where(usable, total, self.total)

        lowest, highest = feasible_interval(signal.gram)
        on_edge = (proposed <= lowest * (1 + ON_EDGE)) | (proposed >= highest * (1 - ON_EDGE))
        limits = {
            "clipped": on_edge & self.rule.clips,
            "slowed": slowed != proposed,
            "floor": slowed < lowest_lambda,
            "ceiling": slowed > self.bounds[1],
            "held": ~usable,
        }
        limited_by = torch.zeros_like(usable, dtype=torch.long)
        for name, applies in limits.items():
            limited_by = torch.where(applies, LIMIT_NAMES.index(name), limited_by)
        return limited_by

    def _count(self, limited_by: Tensor, conflict: Tensor, finite: Tensor) -> None:
        limited_by = torch.where(finite, limited_by, LIMIT_NAMES.index("skipped"))
        shares = F.one_hot(limited_by.reshape(-1), len(LIMIT_NAMES)).float().mean(dim=0)
        self.counts = self.counts + torch.cat([conflict.float().mean()[None], shares])
        self.skipped = self.skipped + ~finite

    def logs(self) -> dict[str, Tensor]:
        """Scalar tensors that explain λ; shares are of the measurements since the last call."""
        shares = self.counts / self.counts[1:].sum()
        self.counts = torch.zeros_like(self.counts)
        logs = dict(zip(("lambda_conflict", *LIMIT_KEYS), shares, strict=True))
        logs["lambda_skipped"] = self.skipped
        if self.judge is not None:
            logs |= self.judge.logs
        if self.smoothness is not None:
            logs["smoothness_task"], logs["smoothness_kd"] = self.smoothness.value
        return logs

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"grams": self.grams, "losses": self.losses}
        parts |= {
            "evidence": self.votes,
            "teacher_signal": self.teacher_signal,
            "trust": self.trust,
            "smoothness": self.smoothness,
            "split": self.split,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def to(self, device: torch.device) -> None:
        """Move the state to `device`."""
        for name in _TENSORS:
            setattr(self, name, getattr(self, name).to(device))
        for part in self._parts().values():
            part.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON numbers, which represent fp32 exactly."""
        tensors = {name: getattr(self, name).tolist() for name in _TENSORS}
        return tensors | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        for name in _TENSORS:
            setattr(self, name, torch.tensor(state[name], dtype=getattr(self, name).dtype))
        for name, part in self._parts().items():
            if name in state or name != "teacher_signal":  # which the first checkpoints lack
                part.load_state_dict(state[name])


_TENSORS = ("lambda_", "total", "first_losses", "skipped", "counts")
