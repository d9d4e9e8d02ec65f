"""The loss on relations between positions, for models of different widths and head counts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import position_weights, zero_unweighted


def relation_loss(
    student: Tensor,
    teacher: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    relation_heads: int,
    weights: Tensor | None = None,
) -> Tensor:
    """KL(teacher ‖ student) of softmax(XXᵀ/√d) in nats, mean over relation heads and rows; X: queries, keys or values.

    The relations of MiniLMv2 (Wang et al. 2021, section 3.1): the vectors of all attention heads are concatenated and
    split into another number of heads of width d. For values, with as many relation heads as attention heads, it is
    MiniLM's value relation (Wang et al. 2020, section 3.2). √d is the only scaling; there is no T².

    Args:
        student: `[examples, length, width]`, the concatenated vectors of all attention heads.
        teacher: `[examples, length, width]`, detached; the width may differ.
        attention_mask: `[examples, length]`, 0 at padding, which is ignored in rows and columns.
        labels: `[examples]` or `[examples, length]`: the weight of an example is its number of labels other than -100.
        num_items: divisor of the sum over items.
        relation_heads: number of relation heads, which must divide both widths.
        weights: per-item weights, same shape as `labels`; None means 1.

    Returns:
        A scalar in fp32.

    Raises:
        ValueError: a width is not a multiple of `relation_heads`.
    """
    widths = student.shape[-1], teacher.shape[-1]
    if any(width % relation_heads for width in widths):
        raise ValueError(f"relation_heads={relation_heads} must divide the widths of student and teacher, {widths}.")
    weights = position_weights(attention_mask, labels, num_items, weights)
    log_student, log_teacher = (
        _log_relations(zero_unweighted(states, weights), attention_mask, relation_heads)
        for states in (student, teacher)
    )
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)
    return (weights * divergence.mean(1)).sum()


def _log_relations(states: Tensor, attention_mask: Tensor, relation_heads: int) -> Tensor:
    """log softmax(XXᵀ/√d), `[examples, relation_heads, length, length]`, over the attended columns."""
    vectors = states.unflatten(-1, (relation_heads, -1)).transpose(1, 2)
    with torch.autocast(states.device.type, enabled=False):  # autocast would multiply in half precision
        scores = vectors @ vectors.mT / math.sqrt(vectors.shape[-1])
    padding = ~attention_mask.bool()[:, None, None, :]
    # The lowest finite number, not −∞: the difference of two infinities is NaN.
    return scores.masked_fill(padding, torch.finfo(scores.dtype).min).log_softmax(-1)
