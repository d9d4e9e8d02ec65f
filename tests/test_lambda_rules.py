"""Rules by hand, and the properties that hold for every Gram matrix."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_kd_lambda.gram import Gram
from hf_kd_lambda.lambda_rules import MEASURED_RULES, adaptive, feasible_interval, loss_weights, norm_ratio

KAPPAS = st.floats(0.01, 100)
COSINES = st.floats(-1, 1)
CONFLICTS = st.floats(-1, -0.01)
SIZES = st.floats(1e-6, 1e6)


def gram(a, b, cosine):
    """Of two gradients with squared norms a and b."""
    return Gram(*(torch.tensor(x, dtype=torch.float64) for x in (a, b, cosine * math.sqrt(a * b))))


def at_least(left, right):
    return left >= right or left == pytest.approx(right, rel=1e-9)


def test_norm_ratio_by_hand():
    assert norm_ratio(gram(16, 4, 0.3)).item() == 2
    assert norm_ratio(gram(16, 4, 0.3), kappa=1.5).item() == 3


@pytest.mark.parametrize(("kappa", "expected"), [(1.0, 2.0), (1.5, 3.0), (0.1, 1.0), (9.0, 4.0)])
def test_adaptive_by_hand(kappa, expected):
    conflicting = gram(16, 4, -0.5)  # c = -4: neither loss increases for λ in [1, 4]
    assert [bound.item() for bound in feasible_interval(conflicting)] == [1, 4]
    assert adaptive(conflicting, kappa).item() == pytest.approx(expected)


@given(SIZES, SIZES, st.floats(0, 1), KAPPAS)
def test_without_conflict_every_lambda_is_feasible_and_adaptive_is_norm_ratio(a, b, cosine, kappa):
    matrix = gram(a, b, cosine)
    assert [bound.item() for bound in feasible_interval(matrix)] == [0, math.inf]
    assert adaptive(matrix, kappa) == norm_ratio(matrix, kappa)


@given(SIZES, SIZES, COSINES, KAPPAS)
def test_along_adaptives_update_neither_loss_increases(a, b, cosine, kappa):
    matrix = gram(a, b, cosine)
    lambda_ = adaptive(matrix, kappa).item()
    c = matrix.dot.item()
    assert at_least(a, -lambda_ * c), "task loss"
    assert at_least(lambda_ * b, -c), "KD loss"


@given(SIZES, SIZES, CONFLICTS, KAPPAS)
def test_adaptive_leaves_kappa_alone_where_it_is_feasible(a, b, cosine, kappa):
    matrix = gram(a, b, cosine)
    low, high = feasible_interval(matrix)
    wanted = norm_ratio(matrix, kappa)
    if low <= wanted <= high:
        assert adaptive(matrix, kappa) == wanted
    else:
        assert adaptive(matrix, kappa) in (low, high)


@given(SIZES, SIZES, CONFLICTS)
def test_the_feasible_interval_is_never_empty_and_its_geometric_mean_is_the_norm_ratio(a, b, cosine):
    low, high = (bound.item() for bound in feasible_interval(gram(a, b, cosine)))
    assert at_least(high, low)
    assert math.sqrt(low * high) == pytest.approx(math.sqrt(a / b), rel=1e-9)


@pytest.mark.parametrize("rule", MEASURED_RULES.values(), ids=MEASURED_RULES)
@given(SIZES, SIZES, COSINES, st.floats(0.1, 10), KAPPAS)
def test_lambda_scales_with_the_task_loss_and_against_the_kd_loss(rule, a, b, cosine, s, kappa):
    lambda_ = rule(gram(a, b, cosine), kappa).item()
    assert rule(gram(s * s * a, b, cosine), kappa).item() == pytest.approx(s * lambda_, rel=1e-9)
    assert rule(gram(a, s * s * b, cosine), kappa).item() == pytest.approx(lambda_ / s, rel=1e-9)


@given(SIZES, SIZES, st.floats(0.1, 10))
def test_adaptive_is_continuous_where_conflict_begins(a, b, kappa):
    without, slight = adaptive(gram(a, b, 0.0), kappa), adaptive(gram(a, b, -1e-9), kappa)
    assert slight.item() == pytest.approx(without.item(), rel=1e-6)


def test_opposite_gradients_leave_one_feasible_lambda():
    assert adaptive(gram(9, 4, -1.0), kappa=7.0).item() == pytest.approx(1.5)


@given(st.floats(1e-6, 1e6))
def test_both_forms_weigh_the_losses_in_the_ratio_lambda(lambda_):
    for form, total in (("additive", 1 + lambda_), ("convex", 1.0)):
        task, kd = loss_weights(torch.tensor(lambda_, dtype=torch.float64), form)
        assert (kd / task).item() == pytest.approx(lambda_, rel=1e-9)
        assert (task + kd).item() == pytest.approx(total, rel=1e-9)


def test_additive_form_leaves_the_task_loss_alone():
    assert [weight.item() for weight in loss_weights(torch.tensor(3.0), "additive")] == [1, 3]
