"""The Gram matrix without batch noise, estimated from the micro-batches of an optimizer step."""

from collections.abc import Collection, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from hf_kd_lambda.gradients.cut import Cut
from hf_kd_lambda.gradients.gram import Gram, Metric, gram_matrix
from hf_kd_lambda.gradients.pair import GradientPair


class SampledGradientPair(GradientPair):
    """A `GradientPair` that treats the micro-batches as independent samples of both gradients.

    The squared norm of a batch gradient includes noise: E|g|² = |E g|² plus the variance of g. Only products of
    different samples have no noise term. If g is the sum of K samples g_k,

        |E g|² = E (|g|² − Σ|g_k|²)·K/(K−1)

    and the same holds for <E g_T, E g_D>: U-statistics (Hoeffding 1948), unbiased for samples of equal weight. If the
    micro-batches differ in their number of items, all entries are too small by a common factor. The samples of all
    ranks are used, except with sharded gradients (FSDP2), which are already sums over ranks.

    During the KD backward there are three gradients in memory, one more than without sampling: both sums, and the task
    gradient of the micro-batch. Its KD gradient is used and freed per parameter during the backward; sharded ones are
    freed after it, which makes four.

    Args:
        parameters, groups, metric, unmeasured: as in `GradientPair`.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        groups: Sequence[int] | None = None,
        metric: Metric | None = None,
        unmeasured: Collection[int] = (),
    ) -> None:
        super().__init__(parameters, groups, metric, unmeasured)
        self.samples = 0
        # Σ|g_T^k|², Σ|g_D^k|², Σ<g_T^k, g_D^k>: [3] or [3, groups], of this rank's samples and shards.
        self.own_products = torch.zeros((), device=self.parameters[0].device)

    @property
    def allows_sparse(self) -> bool:
        """No, because samples are summed in place."""
        return False

    @property
    def measures_the_step(self) -> bool:
        """No, because samples are measured before the weights of the step are known."""
        return False

    def accumulate(self, cut: Cut, task_loss: Tensor, kd_loss: Tensor) -> None:
        """Backpropagate both losses of one micro-batch through the student, and free its graph."""
        task_seeds, kd_seeds = cut.seeds(task_loss), cut.seeds(kd_loss)
        nothing: list[Tensor | None] = [None] * len(self.parameters)
        task_sums = self._swap(nothing)
        cut.backward(task_seeds, retain_graph=True)
        task_grads = self._swap(nothing)
        grams: dict[int, Gram] = {}

        def take(index: int) -> None:
            """Measure the two gradients of one parameter, and move them into the sums."""
            parameter = self.parameters[index]
            task, kd = task_grads[index], parameter.grad
            filled_task, filled_kd = (torch.zeros_like(parameter) if grad is None else grad for grad in (task, kd))
            scale = None if self.metric is None else self.metric(parameter, None)
            if index not in self.unmeasured:
                grams[index] = gram_matrix(filled_task, filled_kd, scale)
            task_sums[index] = _add(task_sums[index], task)
            self.kd_grads[index] = _add(self.kd_grads[index], kd)
            task_grads[index] = parameter.grad = None

        handles = [
            parameter.register_post_accumulate_grad_hook(lambda _, index=index: take(index))
            for index, parameter in enumerate(self.parameters)
            # A sharded gradient may still be copied to the CPU when its hook runs: take it after the backward.
            if parameter.requires_grad and not isinstance(parameter, DTensor)
        ]
        try:
            cut.backward(kd_seeds)
        finally:
            for handle in handles:
                handle.remove()
        for index, (parameter, task) in enumerate(zip(self.parameters, task_grads, strict=True)):
            if task is not None or parameter.grad is not None:
                take(index)
        self._swap(task_sums)
        self.own_products = self.own_products + self._sum_groups(grams)
        self.samples += 1

    def gram(self, step_weights: tuple[Tensor, Tensor] | None = None) -> Gram:
        """Like `GradientPair.gram`, but `step_weights` is ignored: samples were measured before it was known."""
        return super().gram(None)

    def average_over_ranks(self) -> None:
        """All-reduce both gradients to their mean over ranks, in place, and combine the samples of all ranks."""
        super().average_over_ranks()
        ranks = dist.get_world_size()
        dist.all_reduce(self.own_products)
        self.own_products /= ranks**2  # in the mean over ranks, every sample is divided by the number of ranks
        self.samples *= ranks

    def unbiased(self, gram: Gram) -> Gram | None:
        """Estimate the Gram matrix of the expected gradients; None from a single sample.

        Args:
            gram: the result of `gram`.

        Returns:
            Entries of the same shape. They are unbiased, so they may be negative or violate Cauchy-Schwarz. To average
            them over steps, average first and bound the average with `bounded_signal`.
        """
        if self.samples < 2:
            return None
        factor = self.samples / (self.samples - 1)
        own = Gram(*self._sum_shards(self.own_products.clone()))
        return Gram(*((total - part) * factor for total, part in zip(gram, own, strict=True)))


def _add(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """Add in place, like `backward`."""
    if total is None or grad is None:
        return grad if total is None else total
    return total.add_(grad)
