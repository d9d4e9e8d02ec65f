"""Cut the graph at the student's outputs, to differentiate each loss with respect to them first."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs", bound=dict[str, Any])


class Cut(NamedTuple):
    """The end of the student's graph and the start of the losses' graphs."""

    roots: list[Tensor]
    """The student's output tensors, at the end of its graph."""
    leaves: list[Tensor]
    """Detached copies of `roots`, at the start of the losses' graphs."""

    def seeds(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """dL/d(outputs), same shapes as `leaves`; None for outputs that the loss does not use."""
        return torch.autograd.grad(loss, self.leaves, allow_unused=True)

    def backward(self, seeds: Sequence[Tensor | None], retain_graph: bool = False) -> None:
        """Accumulate the student's vector-Jacobian product with `seeds` in the parameters' `.grad`."""
        used = [(root, seed) for root, seed in zip(self.roots, seeds, strict=True) if seed is not None]
        roots, vectors = zip(*used, strict=True)
        torch.autograd.backward(roots, vectors, retain_graph=retain_graph)


def cut_outputs(outputs: Outputs) -> tuple[Outputs, Cut]:
    """Copy a model's outputs and replace every differentiable tensor by a detached leaf.

    Losses of the copy have graphs that end at the leaves, so both losses can be differentiated with respect to the
    leaves first. One vector-Jacobian product per loss then traverses the student, and the losses' graphs are freed.

    Args:
        outputs: a `ModelOutput` of tensors and (nested) tuples or lists of tensors; lists are tuples in the copy.

    Returns:
        The copy, and the cut that maps its leaves to the student's graph.
    """
    cut = Cut([], [])

    def detach(value: Any) -> Any:
        if isinstance(value, Tensor) and value.requires_grad:
            cut.roots.append(value)
            cut.leaves.append(value.detach().requires_grad_())
            return cut.leaves[-1]
        return tuple(map(detach, value)) if isinstance(value, tuple | list) else value

    copied = copy.copy(outputs)
    for name, value in outputs.items():
        copied[name] = detach(value)
    return copied, cut
