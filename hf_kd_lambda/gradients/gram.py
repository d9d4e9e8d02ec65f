"""The 2×2 Gram matrix of the gradients of task loss and KD loss."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

Metric = Callable[[Tensor, Tensor | None], Tensor]
"""Takes a parameter and the gradient of its next step (of the local shard; None if unknown), and returns P, the
diagonal in the dot product <x, P y>: same shape as the gradient, or a scalar."""


class Gram(NamedTuple):
    """The 2×2 Gram matrix of the two gradients: fp32 tensors `[]`, or `[groups]` for one matrix per group."""

    task: Tensor
    """a = |g_task|²"""
    kd: Tensor
    """b = |g_kd|²"""
    dot: Tensor
    """c = <g_task, g_kd>"""

    @property
    def cosine(self) -> Tensor:
        """Cosine similarity of the gradients, c/√(ab); the losses conflict if it is negative."""
        return self.dot / (self.task.sqrt() * self.kd.sqrt())

    def is_finite(self) -> Tensor:
        """Boolean scalar tensor: no entry is NaN or infinite."""
        return torch.stack(self).isfinite().all()


def gram_matrix(task_grad: Tensor, kd_grad: Tensor, scale: Tensor | None = None) -> Gram:
    """The Gram matrix of the two gradients of one parameter, or of their local shards: scalar tensors in fp32.

    Args:
        task_grad, kd_grad: gradients of the same shape, both dense or both sparse.
        scale: the diagonal P in the dot product <x, P y>, of their local shape or a scalar; None for <x, y>.
    """
    if task_grad.is_sparse:
        task_grad, kd_grad = _rows(task_grad, kd_grad)
    task, kd = (local_part(grad).flatten().float() for grad in (task_grad, kd_grad))
    scaled_task, scaled_kd = (task, kd) if scale is None else (task * scale.flatten(), kd * scale.flatten())
    return Gram(torch.dot(scaled_task, task), torch.dot(scaled_kd, kd), torch.dot(scaled_task, kd))


def _rows(task_grad: Tensor, kd_grad: Tensor) -> tuple[Tensor, Tensor]:
    """The stored rows of two sparse gradients. If their rows differ (different batches), both become dense."""
    task, kd = task_grad.coalesce(), kd_grad.coalesce()
    if torch.equal(task.indices(), kd.indices()):
        return task.values(), kd.values()
    return task.to_dense(), kd.to_dense()


def local_part(tensor: Tensor) -> Tensor:
    """The tensor, or this rank's shard of a sharded tensor (FSDP2)."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_parts(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """The tensors without None; for sharded tensors (FSDP2) this rank's shards."""
    return [local_part(tensor) for tensor in tensors if tensor is not None]
