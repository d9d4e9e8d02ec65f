"""Updates of SGD and AdamW as affine functions of the weights of the losses, and the changes that they predict."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Adam

from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.studies.probe.steps import Gradients


class Update(NamedTuple):
    """u = constant + w_task·task + w_kd·kd, one tensor for each parameter."""

    constant: list[Tensor]
    task: list[Tensor]
    kd: list[Tensor]

    def times(self, metric: Sequence[Tensor]) -> "Update":
        """P·u for a diagonal P."""
        return Update(*([p * tensor for p, tensor in zip(metric, part, strict=True)] for part in self))

    def products(self, gradients: Gradients) -> Tensor:
        """<g_i, u_j>, `[2, 3]`, on the CPU: how much each part of the update lowers task loss and KD loss."""
        both = (gradients.task, gradients.kd)
        return torch.stack([torch.stack([_dot(grads, part) for part in self]) for grads in both]).cpu()


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(left, right, strict=True)]).sum()


def sgd_update(gradients: Gradients) -> Update:
    """u = w_task·g_task + w_kd·g_kd, whose products are the Gram matrix."""
    return Update([torch.zeros_like(grad) for grad in gradients.task], gradients.task, gradients.kd)


def gram_of(products: Tensor) -> Gram:
    """The Gram matrix in products, `[2, 3]`, or in slopes, `[2, 2]`; measured slopes are not exactly symmetric."""
    task, kd = products[:, -2:]
    return Gram(task[0], kd[1], (task[1] + kd[0]) / 2)


class _Moments(NamedTuple):
    """Adam's state of a parameter before step t."""

    first: Tensor
    second: Tensor
    step: float
    """t"""
    betas: tuple[float, float]
    eps: float

    @property
    def shares(self) -> tuple[float, float]:
        """(1−β)/(1−β^t): the share of the step's own gradient in m̂, and of its square in v̂."""
        first, second = ((1 - beta) / (1 - beta**self.step) for beta in self.betas)
        return first, second

    def second_with(self, grad: Tensor) -> Tensor:
        """v̂ after a step with this gradient."""
        beta = self.betas[1]
        return (beta * self.second + (1 - beta) * grad.square()) / (1 - beta**self.step)


def _moments(optimizer: Adam, gradients: Gradients) -> Iterator[_Moments]:
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for parameter in gradients.parameters:
        state, group = optimizer.state[parameter], groups[parameter]
        step = float(state["step"]) + 1
        yield _Moments(state["exp_avg"], state["exp_avg_sq"], step, group["betas"], group["eps"])


def adam_momentum(optimizer: Adam, gradients: Gradients) -> Update:
    """Adam's next update, t, with P = 1: m̂ = (β1·m + (1−β1)·(w_task·g_task + w_kd·g_kd)) / (1−β1^t)."""
    update = Update([], [], [])
    for moments, task, kd in zip(_moments(optimizer, gradients), gradients.task, gradients.kd, strict=True):
        beta = moments.betas[0]
        update.constant.append(beta / (1 - beta**moments.step) * moments.first)
        update.task.append(moments.shares[0] * task)
        update.kd.append(moments.shares[0] * kd)
    return update


def metric_before(optimizer: Adam, gradients: Gradients) -> list[Tensor]:
    """P = 1/(√v̂ + ε) with v̂ before the step."""
    all_moments = _moments(optimizer, gradients)
    return [1 / ((m.second / (1 - m.betas[1] ** (m.step - 1))).sqrt() + m.eps) for m in all_moments]


def metric_of_step(optimizer: Adam, gradients: Gradients, weights: tuple[float, float]) -> list[Tensor]:
    """P = 1/(√v̂ + ε) with v̂ of a step with these weights, which includes the square of its gradient."""
    grads = gradients.combined(*weights)
    all_moments = _moments(optimizer, gradients)
    return [1 / (m.second_with(grad).sqrt() + m.eps) for m, grad in zip(all_moments, grads, strict=True)]


def adam_tangent(optimizer: Adam, gradients: Gradients, weights: tuple[float, float]) -> Update:
    """Adam's update, exact at these weights and linear around them.

    Its derivative with respect to the gradient is diagonal: with u = P·m̂ and s_1, s_2 the shares of the gradient in m̂
    and of its square in v̂,

        ∂u/∂g = P·(s_1 − s_2·u·g/√v̂)

    It is nearly 0 if the moments are still zero, as for the embedding of a new token: there u is ±1 times a constant,
    independent of the size of the gradient.
    """
    update = Update([], [], [])
    for m, grad, task, kd in zip(
        _moments(optimizer, gradients), gradients.combined(*weights), gradients.task, gradients.kd, strict=True
    ):
        root = m.second_with(grad).sqrt()
        step = (m.betas[0] / (1 - m.betas[0] ** m.step) * m.first + m.shares[0] * grad) / (root + m.eps)
        ratio = torch.where(root > 0, grad / root, 0.0)
        derivative = (m.shares[0] - m.shares[1] * step * ratio) / (root + m.eps)
        update.constant.append(step - derivative * grad)
        update.task.append(derivative * task)
        update.kd.append(derivative * kd)
    return update
