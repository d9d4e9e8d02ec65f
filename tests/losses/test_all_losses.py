"""What all distillation losses have in common: what counts in them, how they add up, their precision and gradients."""

import math
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


def top_kl(student, teacher, labels, num_items, weights):
    log_probs, indices = teacher.float().log_softmax(-1).topk(3, dim=-1)
    cached = (log_probs, indices, labels, num_items)
    return losses.token_top_kl_loss(student, *cached, temperature=1.0, chunk_size=4, weights=weights)


def task(smoothing, student, _, labels, num_items, weights):
    return losses.task_loss(student, labels, num_items, smoothing, weights)


def soft_labels(student, teacher, labels, num_items, weights):
    shares = teacher.float().softmax(-1).nan_to_num()
    return losses.task_loss(student, labels, num_items, weights=weights, shares=shares)


def attention(scores, mask):
    return scores.masked_fill(mask[:, None, None, :].eq(0), float("-inf")).softmax(-1)


def counted_positions(labels, mask):
    return (mask.bool() & labels.reshape(len(labels), -1).ne(IGNORED).any(-1, keepdim=True))[..., None]


def counted_entries(labels, mask):
    return counted_positions(labels, mask)[:, None] & mask.bool()[:, None, None, :]


class Case(NamedTuple):
    """A loss, divided by 5 items."""

    loss: Callable[..., Tensor]
    """Loss of student, teacher, labels, mask and, if given, weights of the items."""
    shape: tuple[int, ...]
    """Shape of an example of the student and of the teacher."""
    labels: Tensor
    counted: Callable[[Tensor, Tensor], Tensor]
    """Which entries of the student's tensor count, from labels and mask."""
    prepare: Callable[[Tensor, Tensor], Tensor] = lambda values, _: values
    """From random numbers and the mask to what the loss takes."""


def of_items(loss, width=WIDTH):
    def divided(student, teacher, labels, _, weights=None):
        return loss(student, teacher, labels, 5, weights=weights)

    return Case(divided, (LENGTH, width), OF_TOKENS, lambda labels, _: labels.ne(IGNORED)[..., None])


def of_inside(loss, shape, counted, labels=OF_EXAMPLES, **prepare):
    def divided(student, teacher, labels, mask, weights=None):
        return loss(student, teacher, mask, labels, 5, weights=weights)

    return Case(divided, shape, labels, counted, **prepare)


def of_positions(loss, labels=OF_EXAMPLES):
    return of_inside(loss, (LENGTH, WIDTH), counted_positions, labels)


def of_maps(loss, **prepare):
    return of_inside(loss, (HEADS, LENGTH, LENGTH), counted_entries, **prepare)


def of_features(loss):
    def without_mask(student, teacher, _, *arguments, weights):
        return loss(student, teacher, *arguments, weights)

    return of_inside(without_mask, (2, 3, 2), lambda labels, _: labels.ne(IGNORED)[:, None, None, None])


CASES = {
    "soft_target": of_items(partial(losses.soft_target_loss, temperature=2.0)),
    "reverse_kl": of_items(partial(losses.reverse_kl_loss, temperature=2.0)),
    "jensen_shannon": of_items(partial(losses.jensen_shannon_loss, temperature=2.0, beta=0.3)),
    "dkd": of_items(partial(losses.dkd_loss, temperature=2.0, alpha=1.0, beta=2.0)),
    "logit_mse": of_items(losses.logit_mse_loss),
    "hidden_mse": of_positions(losses.hidden_mse_loss),
    "hidden_mse of tokens": of_positions(losses.hidden_mse_loss, OF_TOKENS),
    "hidden_cosine": of_positions(losses.hidden_cosine_loss),
    "pkd": of_positions(losses.pkd_loss),
    "feature_mse": of_features(losses.feature_mse_loss),
    "attention_transfer": of_features(losses.attention_transfer_loss),
    "attention_map": of_maps(losses.attention_map_loss),
    "attention_kl": of_maps(losses.attention_kl_loss, prepare=attention),
    "relation": of_positions(partial(losses.relation_loss, relation_heads=2)),
    "token_top_kl": of_items(top_kl),
}
OF_LABELS = {
    "task": of_items(partial(task, 0.0)),
    "task, smoothed": of_items(partial(task, 0.2)),
    "task, regression": of_items(partial(task, 0.0), width=1),
    "task, soft labels": of_items(soft_labels),
}
"""Losses without a teacher."""


@pytest.fixture(params=[*CASES, *OF_LABELS])
def case(request):
    return (CASES | OF_LABELS)[request.param]


def inputs(case, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shape = EXAMPLES, *case.shape
    student, teacher = (case.prepare(torch.randn(shape, generator=generator), MASK).to(dtype) for _ in range(2))
    return student.requires_grad_(), teacher


def value_and_gradient(case, student, teacher, rows=slice(None)):
    loss = case.loss(student[rows], teacher[rows], case.labels[rows], MASK[rows])
    return loss.detach(), torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_student_that_equals_its_teacher_has_neither_loss_nor_gradient(case):
    student, _ = inputs(case)
    # A divergence of probabilities has a gradient, which is the same for all of a row and ends at the softmax.
    loss, gradient = value_and_gradient(case, student, student.detach())
    assert loss.item() == pytest.approx(0, abs=1e-6)
    if case.prepare is not attention:
        assert gradient.abs().max() < 1e-6


def test_another_student_has_a_loss(case):
    assert case.loss(*inputs(case), case.labels, MASK).item() > 0.01


def test_an_item_counts_with_its_weight(case):
    """As `trust` weighs them: the sum over items of their weights times the loss of the item alone."""
    student, teacher = inputs(case)
    for labels in [case.labels] if case.labels is OF_TOKENS else [OF_EXAMPLES, OF_TOKENS]:
        weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
        expected = 0.0
        for item in labels.ne(IGNORED).nonzero().unbind():
            alone = torch.full_like(labels, IGNORED).index_put(tuple(item), labels[tuple(item)])
            expected += weights[tuple(item)] * case.loss(student, teacher, alone, MASK)
        found = case.loss(student, teacher, labels, MASK, weights)
        torch.testing.assert_close(found, expected, msg=f"{found} is not {expected} with labels {list(labels.shape)}")
        assert not torch.isclose(case.loss(student, teacher, labels, MASK), expected, rtol=0.05), labels


def test_what_is_masked_has_neither_loss_nor_gradient_whatever_is_there(case):
    student, teacher = inputs(case)
    counted = case.counted(case.labels, MASK).expand_as(student)
    assert counted.any()
    assert not counted.all()
    expected, expected_gradient = value_and_gradient(case, student, teacher)
    assert expected_gradient[~counted].eq(0).all()
    assert expected_gradient[counted].ne(0).any()
    for garbage in (1e4, math.nan, math.inf, -math.inf):
        filled = [logits.detach().where(counted, garbage) for logits in (student, teacher)]
        loss, gradient = value_and_gradient(case, filled[0].requires_grad_(), filled[1])
        assert torch.equal(loss, expected), garbage
        assert torch.equal(gradient, expected_gradient), garbage


@pytest.mark.parametrize("name", ["hidden_mse", "hidden_cosine", "pkd", "attention_map", "attention_kl", "relation"])
def test_an_example_of_nothing_but_padding_has_no_loss(name):
    assert CASES[name].loss(*inputs(CASES[name]), OF_EXAMPLES, torch.zeros_like(MASK)).item() == 0


def test_micro_batches_add_up_to_the_whole_batch(case):
    student, teacher = inputs(case)
    whole, gradient = value_and_gradient(case, student, teacher)
    parts = [value_and_gradient(case, student, teacher, slice(*rows)) for rows in ((0, 1), (1, 2), (2, 4))]
    torch.testing.assert_close(sum(loss for loss, _ in parts), whole)
    torch.testing.assert_close(sum(part for _, part in parts), gradient)


def test_half_precision_is_computed_in_fp32(case):
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = inputs(case, dtype)
        loss = case.loss(student, teacher, case.labels, MASK)
        assert loss.dtype == torch.float32, dtype
        assert torch.equal(loss, case.loss(student.float(), teacher.float(), case.labels, MASK)), dtype


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
