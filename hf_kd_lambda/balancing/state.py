"""λ over the course of a run: what was measured, averaged; what held λ; and what a checkpoint keeps of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.balancing.judge import Judge
from hf_kd_lambda.balancing.kd_split import KDSplit
from hf_kd_lambda.balancing.moving_average import MovingAverage
from hf_kd_lambda.balancing.rules import MGDA, Rule, Weights, feasible_interval, loss_weights
from hf_kd_lambda.balancing.signal import Signal, bounded_signal
from hf_kd_lambda.balancing.smoothness import Smoothness
from hf_kd_lambda.balancing.teacher_signal import TeacherSignal
from hf_kd_lambda.balancing.trust import Reliabilities
from hf_kd_lambda.balancing.votes import TeacherVotes
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.utils.log_keys import LIMIT_KEYS, LIMIT_NAMES

SMALLEST_SQUARED_NORM = torch.finfo(torch.float32).tiny
"""A squared norm below it has lost digits, and its average may vanish."""
ON_EDGE = 1e-5  # relative distance from an end of the feasible interval at which λ counts as clipped to it


class Measurement(NamedTuple):
    """What an optimizer step measured, on the training device."""

    gram: Gram
    """Entries `[]`, or `[groups]` where each group of parameters has a λ."""
    losses: Tensor
    """`[2]`: task_loss and kd_loss."""
    norms: Tensor | None = None
    """`[2]` or `[2, groups]`: a and b with the noise that the entries of `gram` are without; None: they hold it."""


class LambdaState:
    """Smooths what is measured, applies a rule to it and bounds what comes out.

    A single batch's Gram matrix is noisy, so that a, b and c are averaged; not λ, whose average would be biased by the
    ratio's skew. All state is tensors on the gradients' device, so that updating it waits for nothing.

    Args:
        rule: maps averages to weights of the losses, whose ratio is λ.
        initial: λ before the first measurement.
        decay: of the moving averages, in [0, 1).
        bounds: smallest and largest λ.
        max_change: bound on |Δ log λ| between measurements; the first one is not bound by it.
        form: of the weights, see `loss_weights`.
        groups: number of groups of parameters with a λ each; None for one λ.
        losses: weights of the KD losses, where each has a λ of its own; None for one λ. See `KDSplit`.
    """

    def __init__(
        self,
        rule: Rule,
        initial: float,
        decay: float,
        bounds: tuple[float, float],
        max_change: float,
        form: str = "convex",
        groups: int | None = None,
        losses: Sequence[float] | None = None,
    ) -> None:
        shape = () if groups is None else (groups,)
        self.rule = rule
        self.bounds = bounds
        self.max_factor = math.exp(max_change)
        self.form = form
        self.lambda_ = torch.full(shape, initial, dtype=torch.float32).clamp(*bounds)
        self.total = torch.ones(shape)
        self.grams = MovingAverage(5, shape, decay)
        self.losses = MovingAverage(2, (), decay)
        self.first_losses = torch.ones(2)
        self.skipped = torch.zeros((), dtype=torch.int32)
        self.counts = torch.zeros(1 + len(LIMIT_NAMES))
        self.votes = TeacherVotes() if "odds" in rule.needs else None
        self.trust = Reliabilities() if "trust_ratio" in rule.needs else None
        self.teacher_signal = None if self.judge is None else TeacherSignal()
        self.smoothness = Smoothness() if "smoothness" in rule.needs else None
        self.split = None if losses is None else KDSplit(losses, decay, mgda=isinstance(rule, MGDA))

    @property
    def judge(self) -> Judge | None:
        """What judges label and teacher for the rule, votes or trust; None where the rule asks for neither."""
        return self.votes or self.trust

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        """(w_task, w_kd) in force, `[]` or `[groups]` each."""
        return loss_weights(self.lambda_, self.form, self.total)

    @property
    def lambdas(self) -> Tensor:
        """λ of each group of parameters or of each KD loss, `[groups]` or `[losses]`; else the one, `[1]`."""
        return (self.lambda_ if self.split is None else self.lambda_ * self.split.weights).view(-1)

    @property
    def signal(self) -> Signal:
        """The averaged Gram matrix without noise, and its share of signal, which is 1 where noise is not estimated."""
        *entries, task, kd = self.grams.value
        return bounded_signal(Gram(*entries), Gram(task, kd, entries[2]))

    @property
    def signal_to_noise(self) -> Tensor:
        """`[2]`: of the task and the KD gradient, over all groups; infinite where noise is not estimated."""
        gram = self.signal.gram
        signal = torch.stack([gram.task.sum(), gram.kd.sum()])
        noise = self.grams.value[3:].reshape(2, -1).sum(dim=1) - signal
        return signal / noise.clamp(min=0.0)

    def update(self, measured: Measurement) -> None:
        """Take in one measurement. A non-finite one is counted and otherwise ignored, as is a vanishing gradient."""
        self.to(measured.losses.device)
        entries = torch.stack(measured.gram)
        norms = entries[:2] if measured.norms is None else measured.norms
        finite = entries.isfinite().all() & norms.isfinite().all()
        usable = finite & (norms > SMALLEST_SQUARED_NORM).all(dim=0)
        first = self.grams.is_empty
        self.grams.update(torch.cat([entries, norms]), usable)
        self._take_losses(measured.losses, finite)
        holder = self._set_lambda(usable, first)
        self._count(holder, measured.gram.dot < 0, finite)

    def _take_losses(self, losses: Tensor, finite: Tensor) -> None:
        usable = finite & losses.isfinite().all()
        self.first_losses = torch.where(usable & self.losses.is_empty, losses, self.first_losses)
        self.losses.update(losses, usable)

    def _needs(self, signal: Signal) -> dict[str, Tensor]:
        """What the rule needs beyond the Gram matrix."""
        losses = self.losses.value
        needs = {"losses": losses, "rates": losses / self.first_losses, "signal_share": signal.share}
        if self.judge is not None:
            needs |= self.judge.needs
        if self.smoothness is not None:
            needs["smoothness"] = self.smoothness.value
        return {name: needs[name] for name in self.rule.needs}

    def _set_lambda(self, usable: Tensor, first: Tensor) -> Tensor:
        """Set λ and the weights' total where `usable`; return what limited λ, as indices of `LIMIT_NAMES`."""
        signal = self.signal
        weights: Weights = self.rule(signal.gram, **self._needs(signal))
        factor = self.skipped.new_ones((), dtype=torch.float32)
        if self.teacher_signal is not None:
            factor = self.teacher_signal.factor
        proposed = factor * weights.kd / weights.task
        low, high = self.lambda_ / self.max_factor, self.lambda_ * self.max_factor
        slowed = torch.where(first, proposed, torch.minimum(torch.maximum(proposed, low), high))
        lowest_lambda = factor * self.bounds[0]  # a teacher that tells nothing is given no weight
        bounded = slowed.clamp(min=lowest_lambda).clamp(max=self.bounds[1])
        usable = usable & bounded.isfinite()
        self.lambda_ = torch.where(usable, bounded, self.lambda_)
        self.total = torch.where(usable, weights.task + weights.kd, self.total)

        lowest, highest = feasible_interval(signal.gram)
        on_edge = (proposed <= lowest * (1 + ON_EDGE)) | (proposed >= highest * (1 - ON_EDGE))
        holds = {
            "clipped": on_edge & self.rule.clips,
            "slowed": slowed != proposed,
            "floor": slowed < lowest_lambda,
            "ceiling": slowed > self.bounds[1],
            "held": ~usable,
        }
        holder = torch.zeros_like(usable, dtype=torch.long)
        for name, is_held in holds.items():
            holder = torch.where(is_held, LIMIT_NAMES.index(name), holder)
        return holder

    def _count(self, holder: Tensor, conflict: Tensor, finite: Tensor) -> None:
        holder = torch.where(finite, holder, LIMIT_NAMES.index("skipped"))
        shares = F.one_hot(holder.reshape(-1), len(LIMIT_NAMES)).float().mean(dim=0)
        self.counts = self.counts + torch.cat([conflict.float().mean()[None], shares])
        self.skipped = self.skipped + ~finite

    def logs(self) -> dict[str, Tensor]:
        """Scalar tensors that tell why λ is as it is; shares are of the measurements since the last call."""
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
        """Move the state to the device of the gradients."""
        for name in _TENSORS:
            setattr(self, name, getattr(self, name).to(device))
        for part in self._parts().values():
            part.to(device)

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON numbers, which hold an fp32 exactly."""
        tensors = {name: getattr(self, name).tolist() for name in _TENSORS}
        return tensors | {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name in _TENSORS:
            setattr(self, name, torch.tensor(state[name], dtype=getattr(self, name).dtype))
        for name, part in self._parts().items():
            if name in state:  # version 0.1.0 saved no teacher_signal
                part.load_state_dict(state[name])


_TENSORS = ("lambda_", "total", "first_losses", "skipped", "counts")
