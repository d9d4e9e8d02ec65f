"""The mean of a student's predictions over passes, also of several ranks, and of predictions that are not finite."""

import pytest
import torch

from hf_kd_lambda.balancing.past_predictions import PastPredictions
from hf_kd_lambda.losses.functional.distributions import possible_classes

CPU = torch.device("cpu")
PASSES = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
"""Logits of three passes, five examples and four classes."""


def means_of(past, passes, orders):
    """The means at each pass, in the order of the examples."""
    found = []
    for logits, order in zip(passes, orders, strict=True):
        parts = [past.mean(rows, logits[rows]) for rows in order.split(2)]
        found.append(torch.cat(parts)[order.argsort()].softmax(-1))
        past.end_pass(lambda sums: sums)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_is_that_of_all_passes_so_far_in_any_order(dtype):
    logits = PASSES.to(dtype)
    orders = [torch.arange(5), torch.tensor([3, 1, 4, 0, 2]), torch.arange(5).flip(0)]
    found = means_of(PastPredictions(5, 4, CPU), logits, orders)
    probabilities = logits.float().softmax(-1)
    for last, mean in enumerate(found):
        torch.testing.assert_close(mean, probabilities[: last + 1].mean(0))


def test_predictions_of_other_ranks_count_after_the_pass():
    ranks = [PastPredictions(5, 4, CPU) for _ in range(2)]
    halves = torch.arange(5).split(3)
    for rank, rows in zip(ranks, halves, strict=True):
        rank.mean(rows, PASSES[0, rows])
    total = ranks[0].present + ranks[1].present
    for rank in ranks:
        rank.end_pass(lambda _: total.clone())
    for rank, rows in zip(ranks, reversed(halves), strict=True):
        mean = rank.mean(rows, PASSES[1, rows]).softmax(-1)
        torch.testing.assert_close(mean, PASSES[:2, rows].softmax(-1).mean(0))


def test_a_pass_may_end_in_parts():
    whole, parts = PastPredictions(5, 4, CPU), PastPredictions(5, 4, CPU)
    for rows in torch.arange(5).split(2):
        whole.mean(rows, PASSES[0, rows])
        parts.mean(rows, PASSES[0, rows])
        parts.end_pass(lambda sums: sums)
    whole.end_pass(lambda sums: sums)
    assert torch.equal(whole.past, parts.past)


def test_a_prediction_that_is_not_finite_is_forgotten():
    past, rows = PastPredictions(2, 4, CPU), torch.arange(2)
    broken = PASSES[0, :2].clone()
    broken[0, 1] = float("nan")
    assert past.mean(rows, broken).isnan().any(-1).tolist() == [True, False]
    past.end_pass(lambda sums: sums)
    mean = past.mean(rows, PASSES[1, :2]).softmax(-1)
    torch.testing.assert_close(mean[0], PASSES[1, 0].softmax(-1))
    torch.testing.assert_close(mean[1], PASSES[:2, 1].softmax(-1).mean(0))


def test_an_excluded_class_stays_excluded():
    logits = PASSES[0].clone()
    logits[:, 2] = -torch.inf
    past, rows = PastPredictions(5, 4, CPU), torch.arange(5)
    for _ in range(2):
        mean = past.mean(rows, logits)
        assert possible_classes(mean).tolist() == [3] * 5
        torch.testing.assert_close(mean.softmax(-1), logits.softmax(-1))


def test_a_certain_prediction_has_finite_logits():
    certain = torch.tensor([[0.0, 1e4, 0.0, 0.0]])
    assert PastPredictions(1, 4, CPU).mean(torch.tensor([0]), certain).isfinite().all()


def test_an_example_that_is_twice_in_a_pass_counts_twice():
    past, logits = PastPredictions(2, 3, torch.device("cpu")), torch.randn(2, 3)
    past.mean(torch.tensor([0, 0]), logits)
    past.end_pass(lambda sums: sums)
    torch.testing.assert_close(past.past[0], torch.cat([logits.softmax(-1).sum(0), torch.tensor([2.0])]))
