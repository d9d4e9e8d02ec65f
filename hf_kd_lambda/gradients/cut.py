"""Cut the graph at the student's outputs, so that each loss is first differentiated with respect to them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Outputs = TypeVar("Outputs", bound=dict[str, Any])


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

    The graphs of losses of the copy end at the leaves, so that both losses can first be differentiated with respect to
    them. The student is then traversed once per loss by a vector-Jacobian product, and no loss's graph is kept.

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

    copied = type(outputs)()
    for name, value in outputs.items():
        copied[name] = detach(value)
    return copied, cut
