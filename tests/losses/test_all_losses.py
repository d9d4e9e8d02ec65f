"""What all distillation losses have in common: what counts in them, how they add up, their precision and gradients."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from hf_kd_lambda.losses import functional as losses
from hf_kd_lambda.losses.functional import IGNORED

EXAMPLES, LENGTH, WIDTH, HEADS = 4, 3, 6, 2
MASK = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 1]])  # padded on the right, and on the left
OF_EXAMPLES = torch.tensor([1, IGNORED, 0, 2])
OF_TOKENS = torch.tensor([[3, 0, 5], [IGNORED, IGNORED, IGNORED], [IGNORED, 2, IGNORED], [IGNORED, 1, 4]])


def top_kl(student, teacher, labels):
    log_probs, indices = teacher.float().log_softmax(-1).topk(3, dim=-1)
    return losses.token_top_kl_loss(student, log_probs, indices, labels, 5, temperature=1.0, chunk_size=4)


def in_chunks(student, teacher, labels):
    def loss(student, teacher, labels):
        return losses.soft_target_loss(student, teacher, labels, 5, 2.0)

    return losses.sum_over_chunks(loss, (student, teacher), labels, chunk_size=4)


def attention(scores, mask):
    return scores.masked_fill(mask[:, None, None, :].eq(0), float("-inf")).softmax(-1)


def counted_positions(labels, mask):
    return (mask.bool() & labels.reshape(len(labels), -1).ne(IGNORED).any(-1, keepdim=True))[..., None]


def counted_entries(labels, mask):
    return counted_positions(labels, mask)[:, None] & mask.bool()[:, None, None, :]


class Case(NamedTuple):
    """A loss, divided by 5 items."""

    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Loss of student, teacher, labels, mask."""
    shape: tuple[int, ...]
    """Shape of an example of the student and of the teacher."""
    labels: Tensor
    counted: Callable[[Tensor, Tensor], Tensor]
    """Which entries of the student's tensor count, from labels and mask."""
    prepare: Callable[[Tensor, Tensor], Tensor] = lambda values, _: values
    """From random numbers and the mask to what the loss takes."""


def of_items(loss):
    return Case(loss, (LENGTH, WIDTH), OF_TOKENS, lambda labels, _: labels.ne(IGNORED)[..., None])


def of_positions(loss, labels=OF_EXAMPLES):
    return Case(lambda s, t, y, m: loss(s, t, m, y, 5), (LENGTH, WIDTH), labels, counted_positions)


def of_maps(loss, prepare):
    shape = (HEADS, LENGTH, LENGTH)
    return Case(lambda s, t, y, m: loss(s, t, m, y, 5), shape, OF_EXAMPLES, counted_entries, prepare)


def of_features(loss):
    return Case(
        lambda s, t, y, _: loss(s, t, y, 5), (2, 3, 2), OF_EXAMPLES, lambda y, _: y.ne(IGNORED)[:, None, None, None]
    )


CASES = {
    "soft_target": of_items(lambda s, t, y, _: losses.soft_target_loss(s, t, y, 5, 2.0)),
    "reverse_kl": of_items(lambda s, t, y, _: losses.reverse_kl_loss(s, t, y, 5, 2.0)),
    "jensen_shannon": of_items(lambda s, t, y, _: losses.jensen_shannon_loss(s, t, y, 5, 2.0, beta=0.3)),
    "dkd": of_items(lambda s, t, y, _: losses.dkd_loss(s, t, y, 5, 2.0, alpha=1.0, beta=2.0)),
    "logit_mse": of_items(lambda s, t, y, _: losses.logit_mse_loss(s, t, y, 5)),
    "hidden_mse": of_positions(losses.hidden_mse_loss),
    "hidden_mse of tokens": of_positions(losses.hidden_mse_loss, OF_TOKENS),
    "hidden_cosine": of_positions(losses.hidden_cosine_loss),
    "pkd": of_positions(losses.pkd_loss),
    "feature_mse": of_features(losses.feature_mse_loss),
    "attention_transfer": of_features(losses.attention_transfer_loss),
    "attention_map": of_maps(losses.attention_map_loss, lambda scores, _: scores),
    "attention_kl": of_maps(losses.attention_kl_loss, attention),
    "relation": of_positions(lambda *arguments: losses.relation_loss(*arguments, relation_heads=2)),
    "soft_target in chunks": of_items(lambda s, t, y, _: in_chunks(s, t, y)),
    "token_top_kl": of_items(lambda s, t, y, _: top_kl(s, t, y)),
}


INSIDE = {
    "hidden_mse": (losses.hidden_mse_loss, (LENGTH, WIDTH)),
    "hidden_cosine": (losses.hidden_cosine_loss, (LENGTH, WIDTH)),
    "pkd": (losses.pkd_loss, (LENGTH, WIDTH)),
    "attention_map": (losses.attention_map_loss, (HEADS, LENGTH, LENGTH)),
    "attention_kl": (losses.attention_kl_loss, (HEADS, LENGTH, LENGTH)),
    "relation": (partial(losses.relation_loss, relation_heads=2), (LENGTH, WIDTH)),
}
"""Losses of what is inside of the models, and the shape of an example."""


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("labels", [OF_EXAMPLES, OF_TOKENS], ids=["examples", "tokens"])
def test_an_example_counts_with_the_weights_of_its_items(name, labels):
    """As `trust` weighs them: the sum over examples of their weights times the loss of the example alone."""
    loss, shape = INSIDE[name]
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, EXAMPLES, *shape, generator=generator)
    if name == "attention_kl":
        student, teacher = (attention(scores, MASK) for scores in (student, teacher))
    weights = torch.rand(labels.shape, generator=generator)
    shares = (weights * labels.ne(IGNORED)).reshape(EXAMPLES, -1).sum(-1)
    one = torch.zeros(1, dtype=torch.long)
    of_example = torch.stack([loss(student[[row]], teacher[[row]], MASK[[row]], one, 1) for row in range(EXAMPLES)])
    expected = (shares * of_example).sum() / 5
    torch.testing.assert_close(loss(student, teacher, MASK, labels, 5, weights=weights), expected)
    assert not torch.isclose(loss(student, teacher, MASK, labels, 5), expected, rtol=0.05)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def inputs(case, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shape = EXAMPLES, *case.shape
    student, teacher = (case.prepare(torch.randn(shape, generator=generator), MASK).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def value_and_gradient(case, student, teacher, rows=slice(None)):
    loss = case.loss(student[rows], teacher[rows], case.labels[rows], MASK[rows])
    return loss.detach(), torch.autograd.grad(loss, student)[0]


def test_a_student_that_equals_its_teacher_has_neither_loss_nor_gradient(case):
    student, _ = inputs(case)
    # A divergence of probabilities has a gradient, which is the same for all of a row and ends at the softmax.
    loss, gradient = value_and_gradient(case, student, student.detach())
    assert loss.item() == pytest.approx(0, abs=1e-6)
    if case.prepare is not attention:
        assert gradient.abs().max() < 1e-6


def test_another_student_has_a_loss(case):
    assert case.loss(*inputs(case), case.labels, MASK).item() > 0.01


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf"), float("-inf")])
def test_what_is_masked_has_neither_loss_nor_gradient_whatever_is_there(case, garbage):
    student, teacher = inputs(case)
    counted = case.counted(case.labels, MASK).expand_as(student)
    assert counted.any()
    assert not counted.all()
    expected, expected_gradient = value_and_gradient(case, student, teacher)
    filled = [logits.detach().where(counted, garbage) for logits in (student, teacher)]
    loss, gradient = value_and_gradient(case, filled[0].requires_grad_(), filled[1])
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)
    assert gradient[~counted].eq(0).all()
    assert gradient[counted].ne(0).any()


def test_micro_batches_add_up_to_the_whole_batch(case):
    student, teacher = inputs(case)
    whole, gradient = value_and_gradient(case, student, teacher)
    parts = [value_and_gradient(case, student, teacher, slice(*rows)) for rows in ((0, 1), (1, 2), (2, 4))]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    torch.testing.assert_close(sum(part for _, part in parts), gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(case, dtype):
    student, teacher = inputs(case, dtype)
    loss = case.loss(student, teacher, case.labels, MASK)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, case.loss(student.float(), teacher.float(), case.labels, MASK))


def test_autocast_changes_nothing(case):
    student, teacher = inputs(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = case.loss(student, teacher, case.labels, MASK)
    assert torch.equal(loss, case.loss(student, teacher, case.labels, MASK))


def test_gradient_is_that_of_finite_differences(case):
    raw = torch.randn(EXAMPLES, *case.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    _, teacher = inputs(case)

    def loss(raw):
        return 5 * case.loss(case.prepare(raw, MASK), teacher, case.labels, MASK)

    # The loss is computed in fp32, whose rounding asks for wide differences.
    assert torch.autograd.gradcheck(loss, raw.requires_grad_(), eps=1e-2, atol=2e-3, rtol=1e-2)


def test_the_number_of_items_may_be_a_tensor():
    student, teacher = inputs(CASES["soft_target"])
    values = [losses.soft_target_loss(student, teacher, OF_TOKENS, items, 2.0) for items in (6, torch.tensor(6))]
    assert torch.equal(*values)
    states = [losses.hidden_mse_loss(student, teacher, MASK, OF_TOKENS, items) for items in (6, torch.tensor(6))]
    assert torch.equal(*states)
