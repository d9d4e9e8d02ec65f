"""Losses on the feature maps of convolutional networks, `[examples, channels, height, width]`."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from hf_kd_lambda.losses.functional.items import items_of_examples, zero_unweighted


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
    items = items_of_examples(labels)
    difference = zero_unweighted(student.flatten(1), items) - zero_unweighted(teacher.flatten(1), items)
    return (items_of_examples(labels, weights) * difference.square().mean(-1)).sum() / num_items


def attention_transfer_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, num_items: Tensor | int, weights: Tensor | None = None
) -> Tensor:
    """Squared distance of the normalised attention maps, Σ_c |A_c|² (Zagoruyko & Komodakis 2017, equation 2).

    A map is the sum of the squares of all channels c. The distance is squared, as in the paper's code. The code
    averages over pixels, here they are summed.

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
    items = items_of_examples(labels)
    student_map, teacher_map = (
        F.normalize(zero_unweighted(maps.flatten(1), items).view(maps.shape).square().sum(1).flatten(1), dim=-1)
        for maps in (student, teacher)
    )
    distance = (student_map - teacher_map).square().sum(-1)
    return (items_of_examples(labels, weights) * distance).sum() / num_items


def _check_equal(what: str, student: Sequence[int], teacher: Sequence[int], advice: str) -> None:
    if tuple(student) != tuple(teacher):
        raise ValueError(f"{what}: the student has {tuple(student)}, the teacher {tuple(teacher)}: {advice}.")
