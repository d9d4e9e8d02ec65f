"""Masks, counts and weights of items, and of the positions of an example.

Ignored values are replaced by zeros before anything is computed from them. A weight of 0 would not be enough: NaN and
infinity would still reach the loss or the gradient.
"""

import torch
from torch import Tensor

IGNORED = -100


def count_items(labels: Tensor) -> Tensor:
    """Number of labels other than -100, as a scalar tensor on the labels' device."""
    return labels.ne(IGNORED).sum()


def items_of_examples(labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Number of items per example, `[examples]`, for labels `[examples]` or `[examples, length]`.

    With `weights`, same shape as `labels`, it is the sum of the items' weights.
    """
    counted = labels.ne(IGNORED)
    counts = counted if weights is None else torch.where(counted, weights, 0.0)
    return counts.reshape(len(labels), -1).sum(-1)


def zero_ignored(values: Tensor, labels: Tensor) -> Tensor:
    """The values `[..., width]` in fp32, zero where the label `[...]` is -100."""
    return values.float().masked_fill(labels.eq(IGNORED).unsqueeze(-1), 0.0)


def sum_over_items(values: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the values `[...]` where the label `[...]` is not -100, multiplied by the weights `[...]` if given."""
    return torch.where(labels.ne(IGNORED), values if weights is None else weights * values, 0.0).sum()


def position_weights(
    attention_mask: Tensor, labels: Tensor, num_items: Tensor | int, weights: Tensor | None = None
) -> Tensor:
    """Weight of every position, `[examples, length]` in fp32; 0 at padding and in examples without items.

    The attended positions of an example share its items evenly. So the weighted sum of values is the mean over the
    positions of an example, times its number of items, summed over examples and divided by `num_items`.

    Args:
        attention_mask: `[examples, length]`, 0 at padding.
        labels: `[examples]` or `[examples, length]`.
        num_items: divisor of the sum over items.
        weights: per-item weights, same shape as `labels`; None means 1.
    """
    attended = attention_mask.bool()
    # Not finite for an example that is only padding, but then it is not used at any position.
    shares = items_of_examples(labels, weights) / attended.sum(-1)
    return torch.where(attended, shares.unsqueeze(-1), 0.0) / num_items


def zero_unweighted(states: Tensor, weights: Tensor) -> Tensor:
    """The states `[..., width]` in fp32, zero where the weight `[...]` is 0."""
    return states.float().masked_fill(weights.eq(0).unsqueeze(-1), 0.0)
