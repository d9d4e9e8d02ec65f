"""The relation loss against loops in fp64, and what it does not see."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from hf_kd_lambda.losses.functional import IGNORED, relation_loss

MASK = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 0], [1, 1, 1]])
OF_EXAMPLES = torch.tensor([0, 1, 2, IGNORED])
OF_TOKENS = torch.tensor([[1, IGNORED, 2], [IGNORED, IGNORED, 0], [IGNORED, 4, IGNORED], [IGNORED] * 3])


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(4, 3, width, generator=generator) for width in (8, 12)]


def relations(states, head, relation_heads):
    """Relations of the attended positions `[positions, width]` of one example."""
    size = states.shape[-1] // relation_heads
    own = states[:, head * size : (head + 1) * size].double()
    return Categorical(logits=own @ own.T / math.sqrt(size))


@pytest.mark.parametrize("labels", [OF_EXAMPLES, OF_TOKENS], ids=["of examples", "of tokens"])
@pytest.mark.parametrize("relation_heads", [1, 2, 4])
def test_relations_are_softmax_of_scaled_products_over_attended_positions(vectors, labels, relation_heads):
    expected = 0.0
    for student, teacher, mask, own in zip(*vectors, MASK.bool(), labels, strict=True):
        for head in range(relation_heads):
            attended = (relations(states[mask], head, relation_heads) for states in (teacher, student))
            expected += own.ne(IGNORED).sum().item() * kl_divergence(*attended).mean().item() / relation_heads
    loss = relation_loss(*vectors, MASK, labels, 7, relation_heads)
    assert loss.item() == pytest.approx(expected / 7, rel=1e-4)


def test_relation_loss_by_hand():
    student = torch.zeros(1, 2, 1)  # relates both positions alike
    teacher = torch.tensor([[[1.0], [0.0]]])  # softmax of (1, 0), and of (0, 0)
    p = 1 / (1 + math.exp(-1))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    loss = relation_loss(student, teacher, torch.ones(1, 2), torch.tensor([0]), 1, relation_heads=1)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)


def test_vectors_of_a_head_may_be_rotated_but_not_mixed_with_another(vectors):
    student, teacher = vectors
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    within = torch.block_diag(rotation, torch.eye(4))
    across = torch.eye(8)[[4, 1, 2, 3, 0, 5, 6, 7]]
    loss, rotated, mixed = (
        relation_loss(student @ turn, teacher, MASK, OF_EXAMPLES, 3, 2) for turn in (torch.eye(8), within, across)
    )
    torch.testing.assert_close(rotated, loss)
    assert not torch.isclose(mixed, loss, rtol=0.01)


def test_relation_heads_that_do_not_divide_a_width_are_refused(vectors):
    with pytest.raises(ValueError, match=r"relation_heads=8 must divide the widths of student and teacher, \(8, 12\)"):
        relation_loss(*vectors, MASK, OF_EXAMPLES, 3, relation_heads=8)


def test_products_are_not_rounded_by_autocast(vectors):
    expected = relation_loss(*vectors, MASK, OF_EXAMPLES, 3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = vectors[0][0] @ vectors[0][0].T
        assert torch.equal(relation_loss(*vectors, MASK, OF_EXAMPLES, 3, 2), expected)
    assert rounded.dtype == torch.bfloat16, "without autocast there is nothing to test"
