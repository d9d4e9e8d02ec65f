"""A plain loop that does what `DistillationTrainer` does: one process, one batch a step, in Python floats."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 2.0

TaskLoss = Callable[[Any, Tensor], Tensor]


class Step(NamedTuple):
    """What a step measured, or a step before it did, and what it did itself."""

    task_loss: float
    kd_loss: float
    gram: tuple[float, float, float]
    lambda_: float


def mean_task_loss(outputs: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy, or squared error for one output."""
    logits = outputs.logits
    return F.mse_loss(logits.squeeze(-1), labels) if logits.shape[-1] == 1 else F.cross_entropy(logits, labels)


def mean_kd_loss(logits: Tensor, soft: Tensor) -> Tensor:
    """Mean T²·KL, or squared distance for one output."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits, soft)
    student_log, teacher_prob = (logits / TEMPERATURE).log_softmax(-1), (soft / TEMPERATURE).softmax(-1)
    return TEMPERATURE**2 * F.kl_div(student_log, teacher_prob, reduction="batchmean")


def losses(
    student: nn.Module, teacher: nn.Module, batch: Mapping[str, Tensor], task_loss: TaskLoss = mean_task_loss
) -> tuple[Tensor, Tensor]:
    """Both losses of one student forward."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    outputs = student(**inputs)
    with torch.no_grad():
        soft = teacher(**inputs).logits
    return task_loss(outputs, batch["labels"]), mean_kd_loss(outputs.logits, soft)


def gradients(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor | None]:
    """dL/dθ; the graph is kept."""
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))


def gram_of(task_grads: list[Tensor | None], kd_grads: list[Tensor | None]) -> tuple[float, float, float]:
    """(a, b, c) in fp64."""
    task, kd = (torch.cat([g.flatten() for g in grads if g is not None]).double() for grads in (task_grads, kd_grads))
    return (task @ task).item(), (kd @ kd).item(), (task @ kd).item()


def propose(average: list[float], rule: str, kappa: float) -> float:
    """λ of a rule."""
    a, b, c = average
    lambda_ = kappa * math.sqrt(a / b)
    return min(max(lambda_, -c / b), -a / c) if rule == "adaptive" and c < 0 else lambda_


def run(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float = 0.0,
    interval: int = 1,
    rule: str = "adaptive",
    form: str = "convex",
    kappa: float = 1.0,
    decay: float = 0.9,
    bounds: tuple[float, float] = (0.1, 10.0),
    max_change: float = 0.5,
    task_loss: TaskLoss = mean_task_loss,
) -> list[Step]:
    """Train with a measured rule and a constant learning rate."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    teacher.eval()
    steps: list[Step] = []
    sums, measured, lambda_ = [0.0, 0.0, 0.0], 0, 1.0
    for index, batch in enumerate(batches):
        student.train()
        task, kd = losses(student, teacher, batch, task_loss)
        task_grads, kd_grads = gradients(task, parameters), gradients(kd, parameters)
        if index % interval == 0:
            measured += 1
            gram = gram_of(task_grads, kd_grads)
            sums = [decay * old + (1 - decay) * new for old, new in zip(sums, gram, strict=True)]
            proposed = propose([x / (1 - decay**measured) for x in sums], rule, kappa)
            if measured > 1:
                proposed = min(max(proposed, lambda_ * math.exp(-max_change)), lambda_ * math.exp(max_change))
            lambda_ = min(max(proposed, bounds[0]), bounds[1])
        scale = 1 if form == "additive" else 1 / (1 + lambda_)
        for parameter, t, k in zip(parameters, task_grads, kd_grads, strict=True):
            parameter.grad = None if t is None else scale * (t + lambda_ * k)
        if max_grad_norm:
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        steps.append(Step(task.item(), kd.item(), gram, lambda_))
    return steps
