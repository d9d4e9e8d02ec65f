"""Losses on hidden states (hints), averaged over the attended positions of each example.

All take hidden states of student and teacher, `[examples, length, width]`; the student's must already be projected to
the teacher's width. For a single position, such as [CLS] in PKD, pass `states[:, :1]` and `attention_mask[:, :1]`.
"""

import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import position_weights, zero_unweighted


def hidden_mse_loss(
    student: Tensor,
    teacher: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of the states over positions and width (TinyBERT, Jiao et al. 2020, equation 8).

    For the embedding output, `hidden_states[0]`, it is TinyBERT's embedding loss (equation 9).

    Args:
        student: `[examples, length, width]`, already projected to the teacher's width.
        teacher: `[examples, length, width]`, detached.
        attention_mask: `[examples, length]`, 0 at padding, which is ignored.
        labels: `[examples]` or `[examples, length]`: the weight of an example is its number of labels other than -100.
        num_items: divisor of the sum over items.
        weights: per-item weights, same shape as `labels`; None means 1.

    Returns:
        A scalar in fp32.
    """
    weights = position_weights(attention_mask, labels, num_items, weights)
    squared = (zero_unweighted(student, weights) - zero_unweighted(teacher, weights)).square().mean(-1)
    return (weights * squared).sum()


def hidden_cosine_loss(
    student: Tensor,
    teacher: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    weights: Tensor | None = None,
) -> Tensor:
    """1 − cosine similarity of the states, mean over positions (DistilBERT, Sanh et al. 2019, section 2).

    Args:
        student, teacher, attention_mask, labels, num_items, weights: as for `hidden_mse_loss`.

    Returns:
        A scalar in fp32.
    """
    weights = position_weights(attention_mask, labels, num_items, weights)
    cosine = F.cosine_similarity(zero_unweighted(student, weights), zero_unweighted(teacher, weights), dim=-1)
    return (weights * (1 - cosine)).sum()


def pkd_loss(
    student: Tensor,
    teacher: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    weights: Tensor | None = None,
) -> Tensor:
    """Squared distance of the normalised states, mean over positions (PKD, Sun et al. 2019, equation 7).

    |u − v|² = 2(1 − cos): twice `hidden_cosine_loss`. The distance is summed over the width, as in the paper. The
    published code averages over the width.

    Args:
        student, teacher, attention_mask, labels, num_items, weights: as for `hidden_mse_loss`.

    Returns:
        A scalar in fp32.
    """
    weights = position_weights(attention_mask, labels, num_items, weights)
    unit_student, unit_teacher = (
        F.normalize(zero_unweighted(states, weights), dim=-1) for states in (student, teacher)
    )
    return (weights * (unit_student - unit_teacher).square().sum(-1)).sum()
