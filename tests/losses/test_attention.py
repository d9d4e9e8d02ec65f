"""Losses of attention maps against values computed by hand and against loops in fp64."""

import math

import pytest
import torch

from hf_kd_lambda.losses.functional import IGNORED, attention_kl_loss, attention_map_loss

MASK = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0]])
OF_EXAMPLES = torch.tensor([0, 1, IGNORED])
OF_TOKENS = torch.tensor([[1, IGNORED, 2], [IGNORED, IGNORED, 0], [IGNORED, IGNORED, IGNORED]])
HEADS = 2


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, HEADS, 3, 3, generator=generator) for _ in range(2)]


@pytest.fixture
def maps(scores):
    return [score.masked_fill(MASK[:, None, None].eq(0), float("-inf")).softmax(-1) for score in scores]


def by_loops(of_row, student, teacher, labels, num_items):
    """Mean of a row's loss over heads and attended rows of each example, weighed by its items."""
    total = 0.0
    for index, mask in enumerate(MASK.tolist()):
        attended = [position for position, attends in enumerate(mask) if attends]
        items = labels[index].ne(IGNORED).sum().item()
        for head in range(HEADS):
            for row in attended:
                pairs = [(student[index, head, row, k].item(), teacher[index, head, row, k].item()) for k in attended]
                total += items * of_row(pairs) / HEADS / len(attended)
    return total / num_items


@pytest.mark.parametrize("labels", [OF_EXAMPLES, OF_TOKENS], ids=["of examples", "of tokens"])
def test_attention_map_loss_is_the_mean_over_what_is_attended(scores, labels):
    expected = by_loops(lambda pairs: sum((s - t) ** 2 for s, t in pairs) / len(pairs), *scores, labels, 7)
    assert attention_map_loss(*scores, MASK, labels, 7).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labels", [OF_EXAMPLES, OF_TOKENS], ids=["of examples", "of tokens"])
def test_attention_kl_loss_is_the_mean_divergence_of_attended_rows(maps, labels):
    expected = by_loops(lambda pairs: sum(t * math.log(t / s) for s, t in pairs), *maps, labels, 7)
    assert attention_kl_loss(*maps, MASK, labels, 7).item() == pytest.approx(expected, rel=1e-5)


def test_losses_by_hand():
    student, teacher = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]]]]), torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]])
    mask, labels = torch.ones(1, 2), torch.tensor([0])
    assert attention_map_loss(student, teacher, mask, labels, 1).item() == 2 * 0.25 / 4
    assert attention_kl_loss(student, teacher, mask, labels, 1).item() == pytest.approx(math.log(2) / 2)


@pytest.mark.parametrize("loss", [attention_map_loss, attention_kl_loss])
def test_heads_of_other_numbers_are_refused(maps, loss):
    with pytest.raises(ValueError, match=r"the student has 2 heads, the teacher 4.*use relation_loss"):
        loss(maps[0], maps[1].repeat(1, 2, 1, 1), MASK, OF_EXAMPLES, 2)


def test_rows_of_a_causal_model_have_zeros_in_both():
    causal = torch.ones(3, 3).tril()
    student = (causal / causal.sum(-1, keepdim=True)).expand(3, HEADS, 3, 3).clone().requires_grad_()
    teacher = torch.eye(3).expand(3, HEADS, 3, 3)
    loss = attention_kl_loss(student, teacher, torch.ones(3, 3), OF_EXAMPLES, 2)
    assert loss.item() == pytest.approx((math.log(1) + math.log(2) + math.log(3)) / 3)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()
    assert gradient[:2].diagonal(dim1=-2, dim2=-1).ne(0).all()


def test_a_probability_that_has_underflowed_costs_much_and_nothing_infinite():
    student = torch.tensor([[[[1.0, 0.0]]]]).repeat(1, 1, 2, 1).requires_grad_()
    teacher = torch.full((1, 1, 2, 2), 0.5)
    loss = attention_kl_loss(student, teacher, torch.ones(1, 2), torch.tensor([0]), 1)
    (gradient,) = torch.autograd.grad(loss, student)
    assert 40 < loss.item() < 50
    assert gradient.isfinite().all()
