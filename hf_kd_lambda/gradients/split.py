"""The gradients of the task loss and of several KD losses."""

from collections.abc import Callable, Collection, Iterable
from typing import ClassVar

import torch
from torch import Tensor

from hf_kd_lambda.gradients.cut import Cut
from hf_kd_lambda.gradients.gram import local_parts
from hf_kd_lambda.gradients.pair import GradientPair


class SplitGradients(GradientPair):
    """A `GradientPair` with a separate gradient for every KD loss. Each is one more copy in memory until `merge_kd`.

    Args:
        parameters, unmeasured: as in `GradientPair`.
    """

    def __init__(self, parameters: Iterable[Tensor], unmeasured: Collection[int] = ()) -> None:
        super().__init__(parameters, unmeasured=unmeasured)
        self.parts: list[list[Tensor | None]] = []

    splits_kd: ClassVar[bool] = True

    @property
    def allows_sparse(self) -> bool:
        """No, because the products of all gradients are computed together."""
        return False

    def accumulate(self, cut: Cut, task_loss: Tensor, *kd_losses: Tensor, item_shares: Tensor | None = None) -> None:
        """Backpropagate all losses of one micro-batch through the student, and free its graph."""
        self.parts = self.parts or [[None] * len(self.parameters) for _ in kd_losses]
        task_seeds, *kd_seeds = [cut.seeds(loss) for loss in (task_loss, *kd_losses)]
        cut.backward(task_seeds, retain_graph=True)
        task_grads = self._grads()
        for index, seeds in enumerate(kd_seeds):
            self._swap(self.parts[index])
            cut.backward(seeds, retain_graph=index < len(kd_seeds) - 1)
            self.parts[index] = self._grads()
        self._swap(task_grads)

    def products(self) -> Tensor:
        """Dot products of all gradients, `[1 + losses, 1 + losses]` in fp32, the task loss first."""
        self._fill_missing(self._layouts())
        gradients = self._gradients()
        matrix = torch.zeros(len(gradients), len(gradients), device=self.parameters[0].device)
        for index, grads in enumerate(zip(*gradients, strict=True)):
            if grads[0] is not None and index not in self.unmeasured:
                rows = torch.stack([part.flatten().float() for part in local_parts(grads)])
                matrix += rows @ rows.T
        return self._sum_shards(matrix)

    def merge_kd(self, weights_of: Callable[[Tensor], Tensor]) -> None:
        """Merge the KD gradients into one, Σ w_i·g_i, in place.

        Args:
            weights_of: maps `products` to the weights w, `[losses]`.
        """
        weights = weights_of(self.products())
        first, *others = (local_parts(part) for part in self.parts)
        torch._foreach_mul_(first, weights[0])
        for grads, weight in zip(others, weights[1:], strict=True):
            torch._foreach_mul_(grads, weight)
            torch._foreach_add_(first, grads)
        self.kd_grads, self.parts = self.parts[0], []

    def _gradients(self) -> list[list[Tensor | None]]:
        return [self._grads(), *self.parts] if self.parts else super()._gradients()
