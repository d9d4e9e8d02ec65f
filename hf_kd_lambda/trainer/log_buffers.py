"""What a run notes of its steps and of its evaluations, until it is logged."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.reports.agreement import teacher_agreement


class StepRecord:
    """Losses of the steps since the last log, and the gradients that were last measured.

    Attributes:
        gram: of the last measurement, over all parameters; None before the first.

    Args:
        names: of the losses, task_loss and kd_loss first.
        device: of training.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.gram: Gram | None = None
        self._names = names
        self._losses = torch.zeros(len(names), device=device)
        self._steps = 0

    def add(self, losses: Tensor, ends_step: bool) -> None:
        """Note the losses, `[names]`, of a micro-batch, or of all of a step."""
        self._losses += losses
        self._steps += ends_step

    def take(
        self,
        weights: tuple[Tensor, Tensor],
        state: LambdaState | None,
        names: Sequence[str],
        with_noise: bool,
        average: Callable[[Tensor], Tensor],
    ) -> dict[str, float]:
        """What to log, without what is not finite; the losses, averaged over steps, begin anew.

        Args:
            weights: (w_task, w_kd) in force.
            state: of λ; None for a rule that measures nothing.
            names: of the groups of parameters, or of the KD losses, with a λ each; none for one λ.
            with_noise: whether noise is estimated.
            average: over ranks.
        """
        losses = average(self._losses) / self._steps
        self._losses, self._steps = torch.zeros_like(losses), 0
        scalars = dict(zip(self._names, losses, strict=True))
        scalars |= {"lambda": weights[1] / weights[0], "kd_weight": weights[1]}
        if self.gram is not None:
            scalars["grad_norm_task"] = self.gram.task.sqrt()
            scalars["grad_norm_kd"] = self.gram.kd.sqrt()
            scalars["grad_cosine"] = self.gram.cosine
        if state is not None:
            scalars |= state.logs()
            if with_noise:
                scalars["snr_task"], scalars["snr_kd"] = state.signal_to_noise
            scalars |= {f"lambda/{name}": each for name, each in zip(names, state.lambdas, strict=False)}
        values = torch.stack([value.float() for value in scalars.values()]).tolist()  # the one wait for the device
        return {name: value for name, value in zip(scalars, values, strict=True) if math.isfinite(value)}


class EvaluationRecord:
    """Losses of an evaluation, and how far student and teacher agree.

    Args:
        names: of the losses.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._rows: list[Tensor] = []
        self._is_regression = False

    def add(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        losses: Tensor,
        num_items: Tensor | int,
        gather: Callable[[Tensor], Tensor],
    ) -> None:
        """Note a batch.

        Args:
            student_logits, teacher_logits: `[examples, ..., classes]`, or `[examples, 1]` of a regression.
            labels: `[examples, ...]`; where they are -100, agreement does not count.
            losses: `[names]`, of the batch.
            num_items: by which their sums over items were divided, so that batches of few tokens weigh little.
            gather: rows of all ranks, without those that pad the last batch.
        """
        self._is_regression = student_logits.shape[-1] == 1
        if self._is_regression:
            told = [student_logits.flatten().float(), teacher_logits.flatten()]
        else:
            items = labels.ne(IGNORED)
            agree = student_logits.argmax(-1).eq(teacher_logits.argmax(-1)) & items
            told = [each.reshape(len(each), -1).sum(-1).float() for each in (agree, items)]
        shares = torch.cat([losses, losses.new_ones(1)]) * num_items / len(student_logits)
        rows = torch.cat([shares.expand(len(student_logits), -1), torch.stack(told, dim=-1)], dim=-1)
        self._rows.append(gather(rows).cpu())

    def metrics(self) -> dict[str, float]:
        """The losses and the agreement with the teacher; nothing of no batch."""
        if not self._rows:
            return {}
        sums, told = torch.cat(self._rows).tensor_split([len(self._names) + 1], dim=-1)
        *losses, items = sums.sum(0)
        means = {name: (loss / items).item() for name, loss in zip(self._names, losses, strict=True)}
        student, teacher = told.split(1, dim=-1)
        agreement = teacher_agreement(student, teacher) if self._is_regression else told[:, 0].sum() / told[:, 1].sum()
        return means | {"teacher_agreement": float(agreement)}
