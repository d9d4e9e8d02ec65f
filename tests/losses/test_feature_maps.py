"""Losses of feature maps against values computed by hand and against loops in fp64."""

import math

import pytest
import torch

from hf_kd_lambda.losses.functional import IGNORED, attention_transfer_loss, feature_mse_loss

LABELS = torch.tensor([1, IGNORED, 0])


def features(*shape, seed=0):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))


def test_feature_mse_loss_by_hand():
    student = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]])
    loss = feature_mse_loss(student, torch.zeros_like(student), torch.tensor([3]), 2)
    assert loss.item() == (1 + 4 + 1) / 4 / 2


def test_feature_mse_loss_is_the_mean_over_each_counted_example():
    student, teacher = features(2, 3, 4), features(2, 3, 4, seed=1)
    expected = sum((student[i].double() - teacher[i].double()).square().mean().item() for i in (0, 2))
    assert feature_mse_loss(student, teacher, LABELS, 5).item() == pytest.approx(expected / 5, rel=1e-6)


def spatial_map(channels):
    """Attention map of nested lists `[channels][height][width]`, as one list of unit length."""
    pixels = [math.fsum(value**2 for value in values) for values in zip(*map(flat, channels), strict=True)]
    return [pixel / math.hypot(*pixels) for pixel in pixels]


def flat(rows):
    return [value for row in rows for value in row]


def test_attention_transfer_loss_is_the_squared_distance_of_unit_maps():
    student, teacher = features(2, 3, 4), features(5, 3, 4, seed=1)  # of different numbers of channels
    expected = 0.0
    for index in (0, 2):
        maps = (spatial_map(outputs[index].tolist()) for outputs in (student, teacher))
        expected += sum((s - t) ** 2 for s, t in zip(*maps, strict=True))
    assert attention_transfer_loss(student, teacher, LABELS, 5).item() == pytest.approx(expected / 5, rel=1e-5)


def test_attention_transfer_loss_by_hand():
    student, teacher = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])
    assert attention_transfer_loss(student, teacher, torch.tensor([0]), 1).item() == 2


def test_attention_transfer_loss_sees_neither_sign_nor_scale_nor_order_of_channels():
    student, teacher = features(4, 2, 2), features(4, 2, 2, seed=1)
    loss = attention_transfer_loss(student, teacher, LABELS, 2)
    torch.testing.assert_close(attention_transfer_loss(-3 * student.flip(1), teacher, LABELS, 2), loss)


def test_maps_without_any_activation_have_a_finite_gradient():
    student = torch.zeros(3, 2, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(attention_transfer_loss(student, features(2, 2, 2), LABELS, 2), student)
    assert gradient.isfinite().all()


def test_maps_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"height and width: the student has \(4, 4\), the teacher \(2, 4\)"):
        attention_transfer_loss(features(2, 4, 4), features(2, 2, 4), LABELS, 2)
    # One pixel would otherwise be compared with all of the teacher's.
    with pytest.raises(ValueError, match=r"feature maps: the student has \(2, 1, 1\), the teacher \(2, 4, 4\)"):
        feature_mse_loss(features(2, 1, 1), features(2, 4, 4), LABELS, 2)
