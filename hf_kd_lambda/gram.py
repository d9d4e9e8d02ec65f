"""From one student forward to two gradients, their average over ranks and their Gram matrix."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

Outputs = TypeVar("Outputs", bound=dict[str, Any])

BUCKET_BYTES = 25 * 2**20  # DDP's own default: long enough to use the wire well, short enough to need little memory


class Gram(NamedTuple):
    """The 2x2 Gram matrix of the two gradients: scalar tensors in fp32."""

    task: Tensor
    """a = |g_T|²"""
    kd: Tensor
    """b = |g_D|²"""
    dot: Tensor
    """c = <g_T, g_D>"""

    @property
    def cosine(self) -> Tensor:
        """Gradient cosine similarity c/√(ab); below zero the losses conflict."""
        return self.dot / (self.task.sqrt() * self.kd.sqrt())

    def is_finite(self) -> Tensor:
        """Boolean scalar tensor: no entry is NaN or infinite."""
        return torch.stack(self).isfinite().all()


class Cut(NamedTuple):
    """Where the student's graph ends and the losses' graphs begin."""

    roots: list[Tensor]
    """The student's output tensors, at the end of its graph."""
    leaves: list[Tensor]
    """Detached copies of the same, at the start of the losses' graphs."""

    def seeds(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """dL/d(outputs), of the shapes of the leaves; None for outputs that the loss does not use."""
        return torch.autograd.grad(loss, self.leaves, allow_unused=True)

    def backward(self, seeds: Sequence[Tensor | None], retain_graph: bool = False) -> None:
        """Add the vector-Jacobian product of the student with `seeds` to the parameters' `.grad`."""
        used = [(root, seed) for root, seed in zip(self.roots, seeds, strict=True) if seed is not None]
        roots, vectors = zip(*used, strict=True)
        torch.autograd.backward(roots, vectors, retain_graph=retain_graph)


def cut_outputs(outputs: Outputs) -> tuple[Outputs, Cut]:
    """Copy a model's outputs with every differentiable tensor replaced by a detached leaf.

    Losses of the copy stop at the leaves, so that both can be differentiated down to there first; the student is then
    traversed once per loss by a vector-Jacobian product, and the first loss's graph never has to be kept.

    Args:
        outputs: a `ModelOutput`, whose values are tensors or (nested) tuples of tensors.
    """
    cut = Cut([], [])

    def detach(value: Any) -> Any:
        if isinstance(value, Tensor) and value.requires_grad:
            cut.roots.append(value)
            cut.leaves.append(value.detach().requires_grad_())
            return cut.leaves[-1]
        return tuple(map(detach, value)) if isinstance(value, tuple) else value

    return type(outputs)(**{name: detach(value) for name, value in outputs.items()}), cut


class GradientPair:
    """The gradients of task loss and KD loss, accumulated apart over micro-batches.

    Between micro-batches the task gradient stays in `.grad`, as an ordinary step's would; the KD gradient is the one
    further copy that a measuring step needs.

    Args:
        parameters: the trainable parameters. Their `.grad` must be empty.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.kd_grads: list[Tensor | None] = [None] * len(self.parameters)

    def accumulate(self, cut: Cut, task_loss: Tensor, kd_loss: Tensor) -> None:
        """Backpropagate both losses of one micro-batch through the student's graph, and free it."""
        task_seeds, kd_seeds = cut.seeds(task_loss), cut.seeds(kd_loss)
        cut.backward(task_seeds, retain_graph=True)
        task_grads = self._swap(self.kd_grads)
        cut.backward(kd_seeds)
        self.kd_grads = self._swap(task_grads)

    def _swap(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Put `grads` into `.grad`, and return what was there. `backward` accumulates into them without a copy."""
        previous = [parameter.grad for parameter in self.parameters]
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        return previous

    def average_over_ranks(self) -> None:
        """Average both gradients over all ranks, once and in place."""
        presence = torch.tensor(self._presence(), dtype=torch.uint8, device=self.parameters[0].device)
        dist.all_reduce(presence, op=dist.ReduceOp.MAX)
        self._fill_missing(presence.tolist())
        for bucket in _buckets(self._local(self._task_grads()) + self._local(self.kd_grads)):
            _average_bucket(bucket)

    def gram(self) -> Gram:
        """The Gram matrix of the accumulated gradients; of sharded ones (FSDP2) summed over the shards."""
        self._fill_missing(self._presence())
        grads, kd_grads = self._task_grads(), self.kd_grads
        gram = torch.stack(gram_matrix(self._local(grads), self._local(kd_grads)))
        sharded = next((grad for grad in grads if isinstance(grad, DTensor)), None)
        if sharded is not None:
            for dim, placement in enumerate(sharded.placements):
                if placement.is_shard():
                    dist.all_reduce(gram, group=sharded.device_mesh.get_group(dim))
        return Gram(*gram)

    def combine(self, task_weight: Tensor, kd_weight: Tensor) -> None:
        """Leave w_T·g_T + w_D·g_D in `.grad`, and free the KD gradient."""
        grads, kd_grads = self._local(self._task_grads()), self._local(self.kd_grads)
        torch._foreach_mul_(grads, task_weight)
        torch._foreach_mul_(kd_grads, kd_weight)
        torch._foreach_add_(grads, kd_grads)
        self.kd_grads = [None] * len(self.parameters)

    def drop(self) -> None:
        """Forget both gradients: an optimizer passes over parameters without `.grad`."""
        self.kd_grads = [None] * len(self.parameters)
        self._swap(self.kd_grads)

    def _task_grads(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self.parameters]

    def _presence(self) -> list[bool]:
        return [task is not None or kd is not None for task, kd in zip(self._task_grads(), self.kd_grads, strict=True)]

    def _fill_missing(self, presence: Sequence[bool | int]) -> None:
        """Zeros where only one loss, or only another rank, reaches a parameter; nothing where none does."""
        for index, (parameter, present) in enumerate(zip(self.parameters, presence, strict=True)):
            if present and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if present and self.kd_grads[index] is None:
                self.kd_grads[index] = torch.zeros_like(parameter)

    @staticmethod
    def _local(grads: Iterable[Tensor | None]) -> list[Tensor]:
        return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads if grad is not None]


def gram_matrix(task_grads: Sequence[Tensor], kd_grads: Sequence[Tensor]) -> Gram:
    """Dot products of two gradients that are given as lists of tensors of pairwise equal shapes, in fp32."""

    def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
        products = [torch.dot(x.flatten().float(), y.flatten().float()) for x, y in zip(left, right, strict=True)]
        return torch.stack(products).sum()

    return Gram(dot(task_grads, task_grads), dot(kd_grads, kd_grads), dot(task_grads, kd_grads))


def _average_bucket(bucket: list[Tensor]) -> None:
    if len(bucket) == 1:
        dist.all_reduce(bucket[0])
        bucket[0].div_(dist.get_world_size())
        return
    flat = torch.cat([grad.flatten() for grad in bucket])
    dist.all_reduce(flat)
    flat.div_(dist.get_world_size())
    parts = flat.split([grad.numel() for grad in bucket])
    torch._foreach_copy_(bucket, [part.view_as(grad) for part, grad in zip(parts, bucket, strict=True)])


def _buckets(grads: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype, at most `BUCKET_BYTES` together unless one alone is larger."""
    bucket: list[Tensor] = []
    size = 0
    for grad in grads:
        full = size + grad.nbytes > BUCKET_BYTES
        if bucket and (full or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.nbytes
    if bucket:
        yield bucket
