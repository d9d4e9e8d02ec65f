"""What a run notes of its steps and of its evaluations, until it is logged."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_kd_lambda.balancing.balancer import Balancer
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.reports.agreement import teacher_agreement


class StepRecord(TrainerCallback):
    """Losses of the steps since the last log, and the gradients that were last measured.

    They are emptied whenever training begins, also where `auto_find_batch_size` begins it again.

    Attributes:
        gram: Gram matrix of the last measurement, over all parameters; None before the first.

    Args:
        names: names of the losses, task_loss and kd_loss first.
        balancer: has the state of λ.
        with_noise: whether noise is estimated.
        device: training device.
    """

    def __init__(self, names: Sequence[str], balancer: Balancer, with_noise: bool, device: torch.device) -> None:
        self._names = names
        self._balancer = balancer
        self._with_noise = with_noise
        self._device = device
        self._begin()

    def _begin(self) -> None:
        self.gram: Gram | None = None
        self._losses = torch.zeros(len(self._names), device=self._device)
        self._steps = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget those of an earlier training."""
        self._begin()

    def add(self, losses: Tensor, ends_step: bool) -> None:
        """Note the losses, `[names]`, of a micro-batch, or of all of a step."""
        self._losses += losses
        self._steps += ends_step

    def take(self, weights: tuple[Tensor, Tensor], average: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """What to log, without numbers of λ that are not finite; the losses, averaged over steps, start again at 0.

        Args:
            weights: (w_task, w_kd) in force.
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
        if (state := self._balancer.state) is not None:
            scalars |= state.logs()
            if self._with_noise:
                scalars["snr_task"], scalars["snr_kd"] = state.signal_to_noise
            lambdas = zip(self._balancer.names, state.lambdas, strict=False)  # no names for one λ
            scalars |= {f"lambda/{name}": value for name, value in lambdas}
        values = torch.stack([value.float() for value in scalars.values()]).tolist()  # the one wait for the device
        # Losses that are not finite must be seen; λ's other numbers are then without meaning.
        return {
            name: value
            for name, value in zip(scalars, values, strict=True)
            if math.isfinite(value) or name in self._names
        }


class EvaluationRecord:
    """Losses of an evaluation, and how far student and teacher agree.

    Args:
        names: names of the losses.
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
        num_items: Tensor,
        gather: Callable[[Tensor], Tensor],
    ) -> None:
        """Note a batch.

        Args:
            student_logits, teacher_logits: `[examples, ..., classes]`, or `[examples, 1]` for regression.
            labels: `[examples, ...]`; where they are -100, agreement does not count.
            losses: `[names]`, of the batch.
            num_items: `[2]`, by which the sums over items of the task loss and of the others were divided, so that
                batches with few items weigh little.
            gather: rows of all ranks, without those that pad the last batch.
        """
        self._is_regression = student_logits.shape[-1] == 1
        if self._is_regression:
            compared = [student_logits.flatten().float(), teacher_logits.flatten()]
        else:
            items = labels.ne(IGNORED)
            agree = student_logits.argmax(-1).eq(teacher_logits.argmax(-1)) & items
            compared = [counted.reshape(len(counted), -1).sum(-1).float() for counted in (agree, items)]
        sums = torch.cat([losses[:1] * num_items[0], losses[1:] * num_items[1], num_items]) / len(student_logits)
        rows = torch.cat([sums.expand(len(student_logits), -1), torch.stack(compared, dim=-1)], dim=-1)
        self._rows.append(gather(rows).cpu())

    def metrics(self) -> dict[str, float]:
        """The losses that had items, and the agreement with the teacher; nothing without a batch."""
        if not self._rows:
            return {}
        sums, compared = torch.cat(self._rows).tensor_split([len(self._names) + 2], dim=-1)
        *losses, num_task, num_kd = sums.sum(0)
        items = [num_task] + [num_kd] * (len(losses) - 1)
        means = {
            name: (loss / count).item() for name, loss, count in zip(self._names, losses, items, strict=True) if count
        }
        student, teacher = compared.split(1, dim=-1)
        shares = compared.sum(0)
        agreement = teacher_agreement(student, teacher) if self._is_regression else shares[0] / shares[1]
        return means | {"teacher_agreement": float(agreement)}
