"""Task loss against values computed by hand and against torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_kd_lambda.losses.functional import IGNORED, task_loss

LOGITS = torch.tensor([[math.log(2), 0.0], [0.0, math.log(3)]])  # probabilities (2/3, 1/3) and (1/4, 3/4)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(6, 4, generator=generator), torch.randint(0, 4, (6,), generator=generator)


def test_task_loss_by_hand():
    loss = task_loss(LOGITS, torch.tensor([0, 0]), num_items=4)
    assert loss.item() == pytest.approx((math.log(3 / 2) + math.log(4)) / 4, rel=1e-6)


def test_one_output_means_squared_error():
    assert task_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]), num_items=2).item() == (1 + 4) / 2


def test_integer_labels_of_a_regression_are_taken_as_numbers():
    assert task_loss(torch.tensor([[1.5]]), torch.tensor([1]), num_items=1).item() == 0.25


def test_positions_count_like_examples(batch):
    logits, labels = batch
    torch.testing.assert_close(task_loss(logits.view(2, 3, 4), labels.view(2, 3), 6), task_loss(logits, labels, 6))


def test_label_smoothing_is_torchs(batch):
    logits, labels = batch
    labels[3] = IGNORED
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="sum") / 5
    torch.testing.assert_close(task_loss(logits, labels, 5, label_smoothing=0.2), expected)
    assert not torch.isclose(expected, task_loss(logits, labels, 5))
