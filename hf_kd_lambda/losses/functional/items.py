"""What counts in a loss, and how much: items, and the positions of an example that share its items.

Values that do not count are replaced by zeros before anything is computed from them: with a weight of 0 alone, NaN and
infinity would pass into the loss or the gradient.
"""

import torch
from torch import Tensor

IGNORED = -100


def count_items(labels: Tensor) -> Tensor:
    """Number of items that carry a label, as a scalar tensor on the labels' device."""
    return labels.ne(IGNORED).sum()


def items_of_examples(labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Number of items of each example, `[examples]`: 1 or 0 for labels `[examples]`, more for `[examples, length]`.

    With `weights`, of the labels' shape, it is the sum of the items' weights.
    """
    counted = labels.ne(IGNORED)
    counts = counted if weights is None else torch.where(counted, weights, 0.0)
    return counts.reshape(len(labels), -1).sum(-1)


def zero_ignored(values: Tensor, labels: Tensor) -> Tensor:
    """The values `[..., width]` in fp32, zeros where the label `[...]` is -100."""
    return values.float().masked_fill(labels.eq(IGNORED).unsqueeze(-1), 0.0)


def sum_over_items(values: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the values `[...]` whose label `[...]` is not -100, each times its weight `[...]` where there are any."""
    return torch.where(labels.ne(IGNORED), values if weights is None else weights * values, 0.0).sum()


def position_weights(
    attention_mask: Tensor, labels: Tensor, num_items: Tensor | int, weights: Tensor | None = None
) -> Tensor:
    """Weight of each position, `[examples, length]` in fp32; 0 at padding and in examples without items.

    The attended positions of an example share its items evenly: the sum of weighted values is the mean over each
    example's positions, times its number of items, summed and divided by `num_items`.

    Args:
        attention_mask: `[examples, length]`, 0 at padding.
        labels: `[examples]` or `[examples, length]`.
        num_items: what the sum over items is divided by.
        weights: of the items, of the labels' shape; None for 1.
    """
    attended = attention_mask.bool()
    # Not finite for an example of padding alone, where no position takes it.
    shares = items_of_examples(labels, weights) / attended.sum(-1)
    return torch.where(attended, shares.unsqueeze(-1), 0.0) / num_items


def zero_unweighted(states: Tensor, weights: Tensor) -> Tensor:
    """The states `[examples, length, width]` in fp32, zeros where the weight `[examples, length]` is 0."""
    return states.float().masked_fill(weights.eq(0).unsqueeze(-1), 0.0)
