"""Losses on attention maps `[examples, heads, length, length]`: rows are queries, columns are keys.

Rows and columns at padding are ignored. If the head counts differ, use `relation_loss`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import position_weights


def attention_map_loss(
    student: Tensor,
    teacher: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of the maps over heads, rows and columns (TinyBERT, Jiao et al. 2020, equation 7).

    TinyBERT compares the scores before softmax, because it converged faster with them. Here they are probabilities:
    models return those, and some scores of a causal model are -∞.

    Args:
        student: `[examples, heads, length, length]`.
        teacher: same shape, detached.
        attention_mask: `[examples, length]`, 0 at padding.
        labels: `[examples]` or `[examples, length]`: the weight of an example is its number of labels other than -100.
        num_items: divisor of the sum over items.
        weights: per-item weights, same shape as `labels`; None means 1.

    Returns:
        A scalar in fp32.

    Raises:
        ValueError: the head counts differ.
    """
    _check_heads(student, teacher)
    weights = position_weights(attention_mask, labels, num_items, weights)
    student, teacher = (_zero_ignored_maps(maps, attention_mask, weights) for maps in (student, teacher))
    columns = attention_mask.bool().sum(-1, keepdim=True).clamp(min=1)
    return (weights * (student - teacher).square().mean(1).sum(-1) / columns).sum()


def attention_kl_loss(
    student: Tensor,
    teacher: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    weights: Tensor | None = None,
) -> Tensor:
    """KL(teacher ‖ student) of the attention distributions in nats, mean over heads and rows.

    MiniLM, Wang et al. 2020, equation 5. The maps are already probabilities, so there is no temperature and no T². An
    entry of the student that underflowed to 0 has no gradient: prefer fp32 or bf16 to fp16.

    Args:
        student: `[examples, heads, length, length]`; every row sums to 1.
        teacher, attention_mask, labels, num_items, weights: as for `attention_map_loss`.

    Returns:
        A scalar in fp32.

    Raises:
        ValueError: the head counts differ.
    """
    _check_heads(student, teacher)
    weights = position_weights(attention_mask, labels, num_items, weights)
    student, teacher = (_zero_ignored_maps(maps, attention_mask, weights) for maps in (student, teacher))
    log_student = student.clamp(min=torch.finfo(student.dtype).tiny).log()
    divergence = F.kl_div(log_student, teacher, reduction="none").sum(-1)
    return (weights * divergence.mean(1)).sum()


def _check_heads(student: Tensor, teacher: Tensor) -> None:
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"attention maps are compared head by head, but the student has {student.shape[1]} heads, the teacher "
            f"{teacher.shape[1]}: use relation_loss, which splits both into the same number of relation heads, or a "
            "student with as many heads."
        )


def _zero_ignored_maps(maps: Tensor, attention_mask: Tensor, weights: Tensor) -> Tensor:
    """The maps in fp32, zero in rows of weight 0 and in columns at padding."""
    counted = weights.ne(0)[:, None, :, None] & attention_mask.bool()[:, None, None, :]
    return torch.where(counted, maps.float(), 0.0)
