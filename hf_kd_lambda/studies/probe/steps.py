"""Real steps from one point of a run, and the changes of both losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from hf_kd_lambda.utils.evaluation_mode import evaluation_mode

Losses = Callable[[], Tensor]
"""Task loss and KD loss, shape (2,), with the current parameters, always on the same batch."""


def exact_losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Both losses as `hf_kd_lambda.losses` defines them, but in the precision of the logits.

    Args:
        logits, teacher_logits: `[examples, classes]`, or `[examples, 1]` for regression.
        labels: `[examples]`.
        temperature: T > 0 of the soft targets.

    Returns:
        Task loss and KD loss, shape (2,), as means over the examples.
    """
    if logits.shape[-1] == 1:
        return torch.stack([F.mse_loss(logits[:, 0], labels.to(logits)), F.mse_loss(logits, teacher_logits)])
    student, teacher = (scores.div(temperature).log_softmax(-1) for scores in (logits, teacher_logits))
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return torch.stack([F.cross_entropy(logits, labels), temperature**2 * divergence])


def losses_on(
    model: nn.Module, inputs: Mapping[str, Tensor], teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Losses:
    """Both losses of a classifier on one batch, without dropout; the model's mode is restored.

    Args:
        model: returns an output with `logits`.
        inputs: keyword arguments of its forward.
        teacher_logits, labels, temperature: as in `exact_losses`.
    """

    def losses() -> Tensor:
        with evaluation_mode(model):
            logits = model(**inputs).logits
        return exact_losses(logits, teacher_logits, labels, temperature)

    return losses


class Gradients(NamedTuple):
    """The gradients of both losses, one tensor for each parameter with a gradient."""

    parameters: list[nn.Parameter]
    task: list[Tensor]
    kd: list[Tensor]

    def combined(self, task_weight: float, kd_weight: float) -> list[Tensor]:
        """w_task·g_task + w_kd·g_kd."""
        return [task_weight * task + kd_weight * kd for task, kd in zip(self.task, self.kd, strict=True)]


def gradients_of(losses: Losses, parameters: Sequence[nn.Parameter]) -> Gradients:
    """Differentiate both losses; parameters without a gradient are left out, as optimizers skip them."""
    task_loss, kd_loss = losses()
    task = torch.autograd.grad(task_loss, parameters, retain_graph=True, allow_unused=True)
    kd = torch.autograd.grad(kd_loss, parameters, allow_unused=True)
    reached, of_task, of_kd = [], [], []
    for parameter, task_grad, kd_grad in zip(parameters, task, kd, strict=True):
        if task_grad is None and kd_grad is None:
            continue
        reached.append(parameter)
        of_task.append(torch.zeros_like(parameter) if task_grad is None else task_grad)
        of_kd.append(torch.zeros_like(parameter) if kd_grad is None else kd_grad)
    return Gradients(reached, of_task, of_kd)


@contextmanager
def restoring(optimizer: Optimizer) -> Iterator[Callable[[], None]]:
    """Yield a function that restores parameters, optimizer state and settings exactly; also called at the end.

    Raises:
        RuntimeError: at the end, if a parameter or a state differs.
    """
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    tensors = [tensor.detach() for tensor in weights + states]
    copies = [tensor.clone() for tensor in tensors]
    settings = [dict(group) for group in optimizer.param_groups]

    def restore() -> None:
        torch._foreach_copy_(tensors, copies)

    try:
        yield restore
    finally:
        restore()
        optimizer.zero_grad()
        for group, before in zip(optimizer.param_groups, settings, strict=True):
            group.update(before)
    if not all(map(torch.equal, tensors, copies)):
        raise RuntimeError("the probe did not restore the parameters or the optimizer state.")


def measure(
    losses: Losses, optimizer: Optimizer, gradients: Gradients, weights: Tensor, learning_rates: Sequence[float]
) -> Tensor:
    """Take a step of the optimizer for each pair of weights and each learning rate, and measure the changes.

    All steps start from the current state, which is restored. They are without weight decay, which does not depend on
    the weights of the losses.

    Args:
        losses: both losses of the model that the optimizer updates.
        optimizer: with its state at this point of a run.
        gradients: gradients of both losses, before the steps.
        weights: w_task and w_kd, `[steps, 2]`.
        learning_rates: η.

    Returns:
        ΔL_task and ΔL_kd, `[rates, 2, steps]`, on the CPU.
    """
    changes = []
    with restoring(optimizer) as restore, torch.no_grad():
        before = losses()
        for task_weight, kd_weight in weights.tolist():
            for parameter, grad in zip(gradients.parameters, gradients.combined(task_weight, kd_weight), strict=True):
                parameter.grad = grad
            for rate in learning_rates:
                for group in optimizer.param_groups:
                    group["lr"], group["weight_decay"] = rate, 0.0
                optimizer.step()
                changes.append(losses() - before)
                restore()
    return torch.stack(changes).view(len(weights), len(learning_rates), 2).permute(1, 2, 0).cpu()
