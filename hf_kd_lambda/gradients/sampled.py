"""The Gram matrix without batch noise, estimated from the micro-batches of an optimizer step."""

from collections.abc import Collection, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from hf_kd_lambda.gradients.cut import Cut
from hf_kd_lambda.gradients.gram import Gram, Metric, gram_matrix
from hf_kd_lambda.gradients.pair import GradientPair

SMALLEST_SHARE = 1e-4  # of the products, that are of different samples: far above the rounding of the sums


class SampledGradientPair(GradientPair):
    """A `GradientPair` that treats the micro-batches as independent samples of both gradients.

    The squared norm of a batch gradient includes noise: E|g|² = |E g|² plus the variance of g. Only products of
    different samples have no noise term. If g is the sum of samples g_k, each with a share w_k of the items, Σw_k = 1,

        |E g|² = E (|g|² − Σ|g_k|²)/(1 − Σw_k²)

    which is the factor K/(K−1) for K equal shares: U-statistics (Hoeffding 1948). For <E g_task, E g_kd> the divisor
    is 1 − Σw_task^k·w_kd^k, since items without a label make the shares of both losses differ. The samples of all
    ranks are used, except with sharded gradients (FSDP2), which are already sums over ranks.

    After a micro-batch's backward passes, there are four gradients in memory, two more than without sampling: its own,
    and both sums.

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
        # Σw_task^k, Σw_kd^k, and the sums of w_task^k², w_kd^k² and w_task^k·w_kd^k, of this rank's samples.
        self.item_shares = torch.zeros(2, device=self.parameters[0].device)
        self.own_shares = _products(self.item_shares)
        # Σ|g_task^k|², Σ|g_kd^k|², Σ<g_task^k, g_kd^k>: [3] or [3, groups], of this rank's samples and shards.
        self.own_products = torch.zeros((), device=self.parameters[0].device)

    @property
    def allows_sparse(self) -> bool:
        """No, because samples are summed in place."""
        return False

    @property
    def measures_the_step(self) -> bool:
        """No, because samples are measured before the weights of the step are known."""
        return False

    def accumulate(self, cut: Cut, task_loss: Tensor, kd_loss: Tensor, *, item_shares: Tensor | None = None) -> None:
        """Backpropagate both losses of one micro-batch through the student, and free its graph.

        Args:
            cut, task_loss, kd_loss: as in `GradientPair.accumulate`.
            item_shares: `[2]`, w_task^k and w_kd^k of the micro-batch, up to a common factor; None for equal shares.
        """
        task_seeds, kd_seeds = cut.seeds(task_loss), cut.seeds(kd_loss)
        nothing: list[Tensor | None] = [None] * len(self.parameters)
        # The gradients of the micro-batch: g_task^k and g_kd^k.
        task_sums = self._swap(nothing)
        cut.backward(task_seeds, retain_graph=True)
        task_grads = self._swap(nothing)
        cut.backward(kd_seeds)
        kd_grads = self._swap(task_sums)
        # Measure them, and add them to the sums, which stay in `.grad` and `kd_grads`.
        grams: dict[int, Gram] = {}
        for index, (parameter, task, kd) in enumerate(zip(self.parameters, task_grads, kd_grads, strict=True)):
            if index not in self.unmeasured and not (task is None and kd is None):
                filled_task, filled_kd = (torch.zeros_like(parameter) if grad is None else grad for grad in (task, kd))
                scale = None if self.metric is None else self.metric(parameter, None)
                grams[index] = gram_matrix(filled_task, filled_kd, scale)
            parameter.grad = _add(parameter.grad, task)
            self.kd_grads[index] = _add(self.kd_grads[index], kd)
        self.own_products = self.own_products + self._sum_groups(grams)
        shares = torch.ones_like(self.item_shares) if item_shares is None else item_shares.to(self.item_shares)
        self.item_shares = self.item_shares + shares
        self.own_shares = self.own_shares + _products(shares)
        self.samples += 1

    def average_over_ranks(self) -> None:
        """All-reduce both gradients to their mean over ranks, in place, and combine the samples of all ranks."""
        super().average_over_ranks()
        ranks = dist.get_world_size()
        dist.all_reduce(self.own_products)
        self.own_products /= ranks**2  # in the mean over ranks, every sample is divided by the number of ranks
        for shares in (self.item_shares, self.own_shares):  # a common factor does not matter
            dist.all_reduce(shares)
        self.samples *= ranks

    def unbiased(self, gram: Gram) -> Gram:
        """Estimate the Gram matrix of the expected gradients; a single sample keeps its noise.

        Args:
            gram: the result of `gram`.

        Returns:
            Entries of the same shape. They are unbiased, so they may be negative or violate Cauchy-Schwarz. To average
            them over steps, average first and bound the average with `bounded_signal`. If a single sample has all
            items of a loss, the loss's entry keeps its noise.
        """
        if self.samples < 2:
            return gram
        of_all = _products(self.item_shares)
        entries = zip(gram, self._sum_shards(self.own_products.clone()), of_all, of_all - self.own_shares, strict=True)
        return Gram(*(_without_own(*entry) for entry in entries))


def _without_own(total: Tensor, own: Tensor, of_all: Tensor, of_others: Tensor) -> Tensor:
    """(|g|² − Σ|g_k|²)/(1 − Σw_k²), with (Σw_k)² for 1; |g|² if one sample has all items.

    Args:
        total, own: |g|² and Σ|g_k|², `[]` or `[groups]`.
        of_all, of_others: (Σw_k)² and (Σw_k)² − Σw_k².
    """
    return torch.where(of_others > SMALLEST_SHARE * of_all, (total - own) * of_all / of_others, total)


def _products(shares: Tensor) -> Tensor:
    """`[3]`: w_task², w_kd² and w_task·w_kd."""
    task, kd = shares
    return torch.stack([task * task, kd * kd, task * kd])


def _add(total: Tensor | None, grad: Tensor | None) -> Tensor | None:
    """Add in place, like `backward`."""
    if total is None or grad is None:
        return grad if total is None else total
    return total.add_(grad)
