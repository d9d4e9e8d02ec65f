"""Losses of the attention maps of transformers, `[examples, heads, length, length]`: rows are queries, columns keys.

Rows and columns at padding do not count. Where head counts differ, use `relation_loss`.
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

    TinyBERT compares the scores before softmax, with which it converged faster. Models return probabilities, the only
    choice for a causal model, where some scores are -∞.

    Args:
        student: `[examples, heads, length, length]`.
        teacher: of the same shape, without gradient.
        attention_mask: `[examples, length]`, 0 at padding.
        labels: `[examples]` or `[examples, length]`: an example weighs as much as it has labels other than -100.
        num_items: what the sum over items is divided by.
        weights: of the items, of the labels' shape; None for 1.

    Returns:
        A scalar in fp32.

    Raises:
        ValueError: the head counts differ.
    """
    _check_heads(student, teacher)
    weights = position_weights(attention_mask, labels, num_items, weights)
    student, teacher = (_zero_uncounted(maps, attention_mask, weights) for maps in (student, teacher))
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

    MiniLM, Wang et al. 2020, equation 5. The maps are probabilities, not logits that a temperature could soften, so
    there is no T². Where a student's probability has underflowed to 0, its entry has no gradient: prefer fp32 or bf16
    to fp16.

    Args:
        student: `[examples, heads, length, length]`, rows of which sum to 1.
        teacher, attention_mask, labels, num_items, weights: as for `attention_map_loss`.

    Returns:
        A scalar in fp32.

    Raises:
        ValueError: the head counts differ.
    """
    _check_heads(student, teacher)
    weights = position_weights(attention_mask, labels, num_items, weights)
    student, teacher = (_zero_uncounted(maps, attention_mask, weights) for maps in (student, teacher))
    log_student = student.clamp(min=torch.finfo(student.dtype).tiny).log()
    divergence = F.kl_div(log_student, teacher, reduction="none").sum(-1)
    return (weights * divergence.mean(1)).sum()


def _check_heads(student: Tensor, teacher: Tensor) -> None:
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"attention maps: the student has {student.shape[1]} heads, the teacher {teacher.shape[1]}, which cannot "
            "be compared head by head: use relation_loss, which splits both into the same number of relation heads, "
            "or a student with as many heads."
        )


def _zero_uncounted(maps: Tensor, attention_mask: Tensor, weights: Tensor) -> Tensor:
    """The maps in fp32, zeros in rows without weight and columns at padding."""
    counted = weights.ne(0)[:, None, :, None] & attention_mask.bool()[:, None, None, :]
    return torch.where(counted, maps.float(), 0.0)
