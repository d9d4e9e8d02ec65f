"""From one student forward to two gradients, their all-reduce over ranks and their Gram matrix."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from hf_kd_lambda.gradients.all_reduce import average_over_ranks
from hf_kd_lambda.gradients.cut import Cut
from hf_kd_lambda.gradients.gram import Gram, Metric, gram_matrix, local_part, local_parts


class GradientPair:
    """Accumulates the gradients of task loss and KD loss separately over micro-batches.

    Between micro-batches the task gradient stays in `.grad`, as in an ordinary step. The KD gradient is the only
    additional copy.

    Args:
        parameters: the trainable parameters. Their `.grad` must be None.
        groups: group index of every parameter, from 0; every group gets its own Gram matrix and weights. None for one
            Gram matrix of all parameters.
        metric: returns P for the dot products <x, P y>, see `AdamMetric`; None for the Euclidean <x, y>.
        unmeasured: indices of parameters that are trained but excluded from the Gram matrix.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        groups: Sequence[int] | None = None,
        metric: Metric | None = None,
        unmeasured: Collection[int] = (),
    ) -> None:
        self.parameters = list(parameters)
        self.groups = groups
        self.metric = metric
        self.unmeasured = unmeasured
        self.kd_grads: list[Tensor | None] = [None] * len(self.parameters)

    splits_kd: ClassVar[bool] = False
    """Whether `accumulate` takes the KD losses separately instead of their sum."""

    @property
    def allows_sparse(self) -> bool:
        """Whether embedding gradients may be sparse. Not with a metric, because its P is dense."""
        return self.metric is None

    @property
    def measures_the_step(self) -> bool:
        """Whether `gram` needs the weights of the coming step, for the metric."""
        return self.metric is not None

    def accumulate(self, cut: Cut, task_loss: Tensor, kd_loss: Tensor, *, item_shares: Tensor | None = None) -> None:
        """Backpropagate both losses of one micro-batch through the student, and free its graph.

        Args:
            cut: between the student's graph and that of the losses.
            task_loss, kd_loss: scalars.
            item_shares: only for `SampledGradientPair`.
        """
        task_seeds, kd_seeds = cut.seeds(task_loss), cut.seeds(kd_loss)
        cut.backward(task_seeds, retain_graph=True)
        task_grads = self._swap(self.kd_grads)
        cut.backward(kd_seeds)
        self.kd_grads = self._swap(task_grads)

    def average_over_ranks(self) -> None:
        """All-reduce the gradients to their mean over ranks, in place. Call it once per step."""
        layouts = torch.tensor(self._layouts(), dtype=torch.uint8, device=self.parameters[0].device)
        dist.all_reduce(layouts, op=dist.ReduceOp.MAX)
        self._fill_missing(layouts.tolist())
        average_over_ranks(local_parts(grad for grads in self._gradients() for grad in grads))

    def gram(self, step_weights: tuple[Tensor, Tensor] | None = None) -> Gram:
        """The Gram matrix of the accumulated gradients; for sharded gradients (FSDP2) summed over the shards.

        Args:
            step_weights: (w_task, w_kd) as in `combine`, for the combined gradient in the metric; None if unknown.

        Returns:
            Entries of shape `[]`, or `[groups]` if the parameters are grouped.
        """
        return self._gram(self.metric, step_weights, self.unmeasured)

    def merge_kd(self, weights_of: Callable[[Tensor], Tensor]) -> None:
        """Merge the gradients of several KD losses. This class has a single KD gradient, so it does nothing.

        Args:
            weights_of: maps the dot products of all gradients, `[1 + losses, 1 + losses]`, to weights `[losses]`.
        """

    def unbiased(self, gram: Gram) -> Gram:
        """The Gram matrix without batch noise; as it is, where the noise is not estimated.

        Args:
            gram: the result of `gram`.
        """
        return gram

    def combined_norm(self, task_weight: Tensor, kd_weight: Tensor) -> Tensor:
        """The Euclidean norm |w_task·g_task + w_kd·g_kd|, for weights as in `combine`."""
        a, b, c = self._gram(None)
        squared = task_weight**2 * a + 2 * task_weight * kd_weight * c + kd_weight**2 * b
        return squared.sum().clamp(min=0.0).sqrt()

    def combine(self, task_weight: Tensor, kd_weight: Tensor) -> None:
        """Write w_task·g_task + w_kd·g_kd to `.grad`, and free the KD gradient.

        Args:
            task_weight, kd_weight: `[]`, or `[groups]` if the parameters are grouped.
        """
        grads, kd_grads = map(local_parts, self._gradients())
        torch._foreach_mul_(grads, self._spread(task_weight))
        torch._foreach_mul_(kd_grads, self._spread(kd_weight))
        torch._foreach_add_(grads, kd_grads)
        self.kd_grads = [None] * len(self.parameters)
        for parameter in self.parameters:  # optimizers need dense gradients of embeddings
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()

    def drop(self) -> None:
        """Drop both gradients. An optimizer skips parameters without `.grad`."""
        self.kd_grads = [None] * len(self.parameters)
        self._swap(self.kd_grads)

    def _swap(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Set `.grad` to `grads` and return the previous ones. `backward` accumulates into `grads` without a copy."""
        previous = self._grads()
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        return previous

    def _grads(self) -> list[Tensor | None]:
        """What is in `.grad` now: the task gradient, except during `accumulate`."""
        return [parameter.grad for parameter in self.parameters]

    def _gradients(self) -> list[list[Tensor | None]]:
        """The gradients of every loss, the task loss first."""
        return [self._grads(), self.kd_grads]

    def _layouts(self) -> list[int]:
        """For every parameter, the layout that the gradients of all losses can take: see `_layout`."""
        return [_layout(grads) for grads in zip(*self._gradients(), strict=True)]

    def _fill_missing(self, layouts: Sequence[int]) -> None:
        """Give the gradients of all losses one layout, with zeros where another loss or another rank has a gradient.

        Args:
            layouts: layout of every parameter, the largest of any rank: see `_layout`.
        """
        _, *others = self._gradients()
        for index, (parameter, layout) in enumerate(zip(self.parameters, layouts, strict=True)):
            if layout != _MISSING:
                parameter.grad = _in_layout(layout, parameter.grad, parameter)
                for grads in others:
                    grads[index] = _in_layout(layout, grads[index], parameter)

    def _gram(
        self,
        metric: Metric | None,
        step_weights: tuple[Tensor, Tensor] | None = None,
        unmeasured: Collection[int] = (),
    ) -> Gram:
        self._fill_missing(self._layouts())
        grams = {}
        for index, (parameter, kd_grad) in enumerate(zip(self.parameters, self.kd_grads, strict=True)):
            if parameter.grad is None or kd_grad is None or index in unmeasured:
                continue
            task, kd = local_part(parameter.grad), local_part(kd_grad)
            combined = None
            if metric is not None and step_weights is not None:
                w_task, w_kd = (weight[self._group(index)] if weight.dim() else weight for weight in step_weights)
                combined = w_task * task + w_kd * kd
            grams[index] = gram_matrix(task, kd, None if metric is None else metric(parameter, combined))
        return Gram(*self._sum_shards(self._sum_groups(grams)))

    def _group(self, index: int) -> int:
        assert self.groups is not None
        return self.groups[index]

    def _members(self, indices: Iterable[int]) -> Tensor:
        """Group indices of the given parameters."""
        return torch.tensor([self._group(index) for index in indices], device=self.parameters[0].device)

    def _sum_groups(self, grams: Mapping[int, Gram]) -> Tensor:
        """Sum scalar Gram matrices, keyed by parameter index, to entries `[3]` or `[3, groups]`."""
        entries = torch.stack([entry for gram in grams.values() for entry in gram]).view(-1, 3)
        if self.groups is None:
            return entries.sum(dim=0)
        # Not index_add: on a GPU its order of summation, and thus its rounding, differs between runs.
        groups = torch.arange(max(self.groups) + 1, device=entries.device)
        is_member = self._members(grams) == groups.unsqueeze(-1)  # [groups, parameters]
        return torch.where(is_member, entries.T.unsqueeze(1), 0.0).sum(dim=-1)  # of [3, groups, parameters]

    def _sum_shards(self, entries: Tensor) -> Tensor:
        """For sharded gradients (FSDP2), all-reduce the entries to their sum over the shards."""
        sharded = next((parameter for parameter in self.parameters if isinstance(parameter, DTensor)), None)
        if sharded is not None:
            for dim, placement in enumerate(sharded.placements):
                if placement.is_shard():
                    dist.all_reduce(entries, group=sharded.device_mesh.get_group(dim))
        return entries

    def _spread(self, weight: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The weight of every parameter that has a gradient; a scalar applies to all."""
        if not weight.dim():
            return weight
        present = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        return weight[self._members(present)].unbind()


_MISSING, _ROWS, _DENSE = range(3)  # of two layouts, the larger can also store what the smaller stores


def _layout(grads: Iterable[Tensor | None]) -> int:
    """`_MISSING` if there is no gradient, `_ROWS` if all are sparse, else `_DENSE`."""
    return max((_ROWS if grad.is_sparse else _DENSE for grad in grads if grad is not None), default=_MISSING)


def _in_layout(layout: int, grad: Tensor | None, parameter: Tensor) -> Tensor:
    """The gradient as rows or dense; zeros if there is none."""
    if grad is None:
        zeros = torch.zeros_like(parameter)
        return zeros.to_sparse(1) if layout == _ROWS else zeros
    return grad.to_dense() if grad.is_sparse and layout == _DENSE else grad
