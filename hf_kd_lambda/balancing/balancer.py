"""λ during a run: when it is measured, what it is set from, and the current weights of the losses."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from hf_kd_lambda.balancing.judge import Judge
from hf_kd_lambda.balancing.past_predictions import PastPredictions
from hf_kd_lambda.balancing.rules import Rule
from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.balancing.teacher_signal import TeacherSignal, count_signal
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import NO_WEIGHTS, ItemWeights


class Balancer:
    """Owns the rule, the measuring interval, the state of λ and the counts of the current step.

    Attributes:
        state: the state of λ; None for a schedule, whose weights depend only on the progress of training.
        judge: votes or trust; None if the rule needs neither.
        past: the student's predictions in earlier passes; None if they are not remembered.

    Args:
        rule: maps measurements to weights.
        form: form of the weights, see `loss_weights`.
        interval: number of optimizer steps between measurements.
        state: see above.
        names: names of the parameter groups, or of the KD losses, that have their own λ; empty for a single λ.
        device: the training device.
    """

    def __init__(
        self,
        rule: Rule,
        form: str,
        interval: int,
        state: LambdaState | None,
        names: Sequence[str],
        device: torch.device,
    ) -> None:
        self.rule = rule
        self.form = form
        self.interval = interval
        self.state = state
        self.judge = None if state is None else state.judge
        self.names = names
        self.device = device
        self.past: PastPredictions | None = None
        self._counts: Tensor | None = None
        if state is not None:
            state.to(device)

    def measures_at(self, step: int) -> bool:
        """Whether λ is measured at this optimizer step, counted from 0."""
        return self.state is not None and step % self.interval == 0

    def weights(self, progress: float) -> tuple[Tensor, Tensor]:
        """The current (w_task, w_kd), scalar tensors: see `LambdaState.mean_weights`.

        Args:
            progress: completed share of the training, in [0, 1].
        """
        if self.state is None:
            return self._scheduled_weights(progress)
        return self.state.mean_weights

    @property
    def kd_weights(self) -> Tensor | None:
        """Weights in the sum of KD losses, `[losses]`, if every KD loss has its own λ; otherwise None."""
        return None if self.state is None or self.state.split is None else self.state.split.weights

    def observe(
        self,
        student_logits: Tensor,
        teacher: TeacherBatch,
        items: ItemLabels,
        rows: Tensor | None = None,
    ) -> tuple[TeacherBatch, ItemWeights]:
        """Count the agreement of student, teacher and label on a micro-batch, for rules that need it.

        Args:
            student_logits: `[examples, (length,) classes]`, before the step.
            teacher: teacher outputs for the same micro-batch.
            items: labels `[examples, (length)]` of both losses.
            rows: positions of the examples in the training data, `[examples]`; None if they are not known.

        Returns:
            The teacher with the soft targets to learn from, see `TeacherBatch.mixed`, and per-item weights of both
            losses.

        Raises:
            ValueError: see `observe` of votes and of trust.
        """
        if self.judge is None:
            return teacher, NO_WEIGHTS
        if self.past is not None and rows is not None:
            student_logits = self.past.mean(rows, student_logits)
        weights, counts = self.judge.observe(student_logits, teacher, items)
        teacher = teacher.mixed(weights.teachers)
        if counts is not None:
            self._add(torch.cat([counts, count_signal(teacher, items.kd)]))
        return teacher, weights

    @property
    def evaluation_weights(self) -> Tensor | None:
        """Weights of several teachers in the soft targets outside of training, see `Judge.evaluation_weights`."""
        return None if self.judge is None else self.judge.evaluation_weights

    def end_step(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Update votes or trust, and the teacher signal, with the counts of a step.

        Args:
            sum_over_ranks: all-reduces a tensor to its sum over ranks.
        """
        if self._counts is None:
            return
        counts, state = sum_over_ranks(self._counts), cast(LambdaState, self.state)
        of_judge, of_signal = counts.split([len(counts) - 2, 2])  # as `observe` concatenates them
        cast(Judge, self.judge).update(of_judge)
        cast(TeacherSignal, state.teacher_signal).update(of_signal)
        self.drop_counts()

    def _add(self, counts: Tensor) -> None:
        self._counts = counts if self._counts is None else self._counts + counts

    def drop_counts(self) -> None:
        """Discard the counts of an unfinished step."""
        self._counts = None

    def end_first_pass(self) -> None:
        """Stop counting: the student has been trained on all examples and has seen their labels."""
        if self.judge is not None:
            self.judge.closed = True

    def load(self, saved: dict[str, Any]) -> None:
        """Load the state of λ from `LambdaState.state_dict`, and discard the counts of an unfinished step."""
        assert self.state is not None, "a rule that measures nothing has no state"
        self.drop_counts()
        self.state.load_state_dict(saved)
        self.state.to(self.device)

    def _scheduled_weights(self, progress: float) -> tuple[Tensor, Tensor]:
        done = torch.full((), progress, dtype=torch.float32, device=self.device)
        needs: dict[str, Any] = dict.fromkeys(self.rule.needs, done)
        weights = self.rule(Gram(*torch.ones_like(done).expand(3)), **needs)
        return (2 * weights.task, 2 * weights.kd) if self.form == "sum_two" else (weights.task, weights.kd)
