"""Losses of hidden states against values computed by hand and against loops over positions in fp64."""

import math

import pytest
import torch

from hf_kd_lambda.losses.functional import IGNORED, hidden_cosine_loss, hidden_mse_loss, pkd_loss

MASK = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0]])
OF_EXAMPLES = torch.tensor([0, 1, IGNORED])
OF_TOKENS = torch.tensor([[1, IGNORED, 2], [IGNORED, IGNORED, 0], [IGNORED, IGNORED, IGNORED]])
LOSSES = {"mse": hidden_mse_loss, "cosine": hidden_cosine_loss, "pkd": pkd_loss}


def of_one_position(name, student, teacher):
    """A loss of two lists of numbers."""
    if name == "mse":
        return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / len(student)
    cosine = sum(s * t for s, t in zip(student, teacher, strict=True)) / math.hypot(*student) / math.hypot(*teacher)
    return 1 - cosine if name == "cosine" else 2 - 2 * cosine


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 3, 4, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("labels", [OF_EXAMPLES, OF_TOKENS], ids=["of examples", "of tokens"])
def test_losses_are_means_over_attended_positions_weighed_by_items(states, name, labels):
    expected = 0.0
    for student, teacher, mask, own in zip(*(tensor.tolist() for tensor in (*states, MASK, labels)), strict=True):
        items = sum(label != IGNORED for label in own) if isinstance(own, list) else int(own != IGNORED)
        attended = [pair for *pair, attends in zip(student, teacher, mask, strict=True) if attends]
        expected += items * sum(of_one_position(name, *pair) for pair in attended) / len(attended)
    loss = LOSSES[name](*states, MASK, labels, 7)
    assert loss.item() == pytest.approx(expected / 7, rel=1e-5)


def test_hidden_mse_loss_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [0.0, 3.0]]])
    for mask, expected in (([[1, 1]], (5 / 2 + 9 / 2) / 2), ([[1, 0]], 5 / 2)):
        assert hidden_mse_loss(student, teacher, torch.tensor(mask), torch.tensor([0]), 1).item() == expected


def test_losses_of_directions_by_hand():
    student, teacher = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[0.0, 5.0], [0.0, -3.0]]])
    mask, labels = torch.ones(1, 2), torch.tensor([0])
    assert hidden_cosine_loss(student, teacher, mask, labels, 1).item() == (1 + 2) / 2
    assert pkd_loss(student, teacher, mask, labels, 1).item() == (2 + 4) / 2


@pytest.mark.parametrize("loss", [hidden_cosine_loss, pkd_loss])
def test_losses_of_directions_do_not_see_lengths(states, loss):
    student, teacher = states
    scaled = loss(7 * student, teacher / 3, MASK, OF_EXAMPLES, 2)
    torch.testing.assert_close(scaled, loss(student, teacher, MASK, OF_EXAMPLES, 2))


def test_one_position_alone_can_be_given(states):
    student, teacher = states
    expected = (student - teacher)[:2, 0].square().mean(-1)
    loss = hidden_mse_loss(student[:, :1], teacher[:, :1], torch.ones(3, 1), OF_EXAMPLES, 2)
    torch.testing.assert_close(loss, expected.sum() / 2)


@pytest.mark.parametrize("loss", [hidden_cosine_loss, pkd_loss])
def test_a_state_without_direction_has_a_finite_gradient(states, loss):
    student = torch.zeros(3, 3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(student, states[1], MASK, OF_EXAMPLES, 2), student)
    assert gradient.isfinite().all()
