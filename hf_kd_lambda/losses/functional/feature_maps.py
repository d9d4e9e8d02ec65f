"""Losses on the feature maps of convolutional networks, `[examples, channels, height, width]`."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import items_of_examples


def feature_mse_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, num_items: Tensor | int, weights: Tensor | None = None
) -> Tensor:
    """Mean squared difference over channels and pixels (FitNets, Romero et al. 2015, equation 3: ½ of the sum).

    Args:
        student: `[examples, channels, height, width]`, already projected to the teacher's shape (FitNets' regressor).
        teacher: same shape, detached.
        labels: `[examples]` or, of several labels, `[examples, labels]`; examples without an item are ignored.
        num_items: divisor of the sum over items, which each of an example's items takes part in.
        weights: per-item weights, same shape as `labels`; None means 1.

    Returns:
        A scalar in fp32.

    Raises:
        ValueError: the shapes of the maps differ.
    """
    _check_equal("feature maps", student.shape[1:], teacher.shape[1:], "project the student's to the teacher's shape")
    difference = _zero_without_items(student, labels) - _zero_without_items(teacher, labels)
    return (items_of_examples(labels, weights) * difference.flatten(1).square().mean(-1)).sum() / num_items


def attention_transfer_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, num_items: Tensor | int, weights: Tensor | None = None
) -> Tensor:
    """|q_S/|q_S| − q_T/|q_T||² of the spatial attention maps q = Σ_c |A_c|² (Zagoruyko & Komodakis 2017, equation 2).

    The distance is squared, as in the paper's code. The code averages over pixels, here they are summed.

    Args:
        student: `[examples, channels, height, width]`.
        teacher: `[examples, channels, height, width]`, detached; the number of channels may differ.
        labels: `[examples]` or, of several labels, `[examples, labels]`; examples without an item are ignored.
        num_items: divisor of the sum over items, which each of an example's items takes part in.
        weights: per-item weights, same shape as `labels`; None means 1.

    Returns:
        A scalar in fp32.

    Raises:
        ValueError: the maps' heights or widths differ.
    """
    advice = "compare layers of equal resolution, or pool the larger"
    _check_equal("feature maps' height and width", student.shape[2:], teacher.shape[2:], advice)
    student_map, teacher_map = (
        F.normalize(_zero_without_items(maps, labels).square().sum(1).flatten(1), dim=-1)
        for maps in (student, teacher)
    )
    distance = (student_map - teacher_map).square().sum(-1)
    return (items_of_examples(labels, weights) * distance).sum() / num_items


def _zero_without_items(maps: Tensor, labels: Tensor) -> Tensor:
    """The maps in fp32, zero for examples without an item: NaN in them would reach the loss in spite of weight 0."""
    return maps.float().masked_fill(items_of_examples(labels).eq(0)[:, None, None, None], 0.0)


def _check_equal(what: str, student: Sequence[int], teacher: Sequence[int], advice: str) -> None:
    if tuple(student) != tuple(teacher):
        raise ValueError(f"{what}: the student has {tuple(student)}, the teacher {tuple(teacher)}: {advice}.")
