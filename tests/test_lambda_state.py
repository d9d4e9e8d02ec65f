"""λ over the measurements of a run."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_kd_lambda.gram import Gram
from hf_kd_lambda.lambda_rules import adaptive, norm_ratio
from hf_kd_lambda.lambda_state import LambdaState


def gram(a, b, c=0.0):
    return Gram(*(torch.tensor(x, dtype=torch.float32) for x in (a, b, c)))


def make_state(**settings):
    defaults = {"rule": norm_ratio, "initial": 1.0, "decay": 0.9, "bounds": (1e-3, 1e3), "max_change": 100.0}
    return LambdaState(**{**defaults, **settings})


def random_grams(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = [torch.randn(2, 5, generator=generator) for _ in range(count)]
    return [Gram(task @ task, kd @ kd, task @ kd) for task, kd in pairs]


def test_lambda_starts_at_its_initial_value_within_the_bounds():
    assert make_state(initial=0.25).lambda_.item() == 0.25
    assert make_state(initial=5, bounds=(1, 2)).lambda_.item() == 2
    assert make_state(initial=5, bounds=(1, 9)).lambda_.dtype == torch.float32


def test_the_first_measurement_counts_in_full_and_without_a_bound_on_its_change():
    state = make_state(max_change=0.1)
    state.update(gram(16, 4))
    assert state.lambda_.item() == pytest.approx(2, rel=1e-6)


def test_the_gram_matrix_is_averaged_and_debiased_by_hand():
    state = make_state(decay=0.75)
    for measured in (gram(1, 4), gram(2, 4), gram(4, 1)):
        state.update(measured)
    weights = [0.25 * 0.75**2, 0.25 * 0.75, 0.25]
    a = sum(w * x for w, x in zip(weights, (1, 2, 4), strict=True)) / sum(weights)
    b = sum(w * x for w, x in zip(weights, (4, 4, 1), strict=True)) / sum(weights)
    assert sum(weights) == pytest.approx(1 - 0.75**3)
    assert state.lambda_.item() == pytest.approx(math.sqrt(a / b), rel=1e-6)


def test_the_inner_product_is_averaged_too():
    state = make_state(rule=lambda average: average.dot, decay=0.5, bounds=(-10, 10), initial=2.0)
    state.update(gram(1, 1, 0.8))
    assert state.lambda_.item() == pytest.approx(0.8)
    state.update(gram(1, 1, 0.5))
    assert state.lambda_.item() == pytest.approx((0.25 * 0.8 + 0.5 * 0.5) / 0.75)


def test_decay_zero_keeps_no_memory():
    state = make_state(decay=0.0)
    state.update(gram(1, 1))
    state.update(gram(9, 1))
    assert state.lambda_.item() == 3


@pytest.mark.parametrize(("measured", "sign"), [(gram(1e6, 1), 1), (gram(1, 1e6), -1)], ids=["up", "down"])
def test_log_lambda_changes_by_no_more_than_its_bound(measured, sign):
    state = make_state(decay=0.0, max_change=0.5)
    state.update(gram(1, 1))
    state.update(measured)
    assert math.log(state.lambda_.item()) == pytest.approx(0.5 * sign, rel=1e-5)
    state.update(measured)
    assert math.log(state.lambda_.item()) == pytest.approx(1.0 * sign, rel=1e-5)


def test_the_floor_wins_over_the_feasible_interval():
    state = make_state(rule=adaptive, bounds=(0.5, 10.0))
    memorised = gram(1e-4, 1, -0.5e-2)  # feasible: λ in [0.005, 0.02]
    state.update(memorised)
    assert state.lambda_.item() == 0.5


def test_the_upper_bound_wins_over_the_bound_on_change():
    state = make_state(decay=0.0, bounds=(0.1, 1.2), max_change=0.5)
    state.update(gram(1, 1))
    state.update(gram(100, 1))
    assert state.lambda_.item() == pytest.approx(1.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("entry", range(3))
def test_a_non_finite_measurement_is_counted_and_changes_nothing_else(entry, bad):
    state, twin = make_state(), make_state()
    for each in (state, twin):
        each.update(gram(1, 4, -1))
    entries = [1.0, 1.0, 0.0]
    entries[entry] = bad
    state.update(gram(*entries))
    assert state.state_dict() == {**twin.state_dict(), "skipped": 1}
    for each in (state, twin):
        each.update(gram(9, 1))
    assert state.lambda_ == twin.lambda_


def test_a_non_finite_first_measurement_does_not_count_as_the_first():
    state = make_state(initial=3.0, max_change=0.1)
    state.update(gram(math.nan, 1))
    assert state.lambda_.item() == 3
    state.update(gram(1, 4))
    assert state.lambda_.item() == 0.5


@pytest.mark.parametrize("measured", [gram(0, 1), gram(1, 0), gram(0, 0), gram(1e-45, 1), gram(1, 1e-45)])
@pytest.mark.parametrize("rule", [norm_ratio, adaptive])
def test_a_vanishing_gradient_holds_lambda_and_is_no_error(measured, rule):
    state = make_state(rule=rule, initial=2.0)
    before = state.state_dict()
    state.update(measured)
    assert state.state_dict() == before
    assert state.skipped == 0


@given(
    st.lists(st.tuples(*[st.floats(0, 2.0**120, width=32)] * 2, st.floats(-1, 1, width=32)), min_size=1, max_size=5)
)
def test_lambda_stays_finite_and_within_bounds_whatever_is_measured(measurements):
    state = make_state(rule=adaptive, bounds=(0.1, 10.0), max_change=0.5)
    for a, b, cosine in measurements:
        state.update(gram(a, b, cosine * math.sqrt(a) * math.sqrt(b)))
        assert 0.1 <= state.lambda_.item() <= 10


def test_the_state_survives_json_and_continues_bit_for_bit():
    state = make_state(rule=adaptive, max_change=0.2)
    grams = random_grams(20)
    for measured in (*grams[:7], gram(math.nan, 1, 0)):
        state.update(measured)
    restored = make_state(rule=adaptive, max_change=0.2)
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert restored.state_dict() == state.state_dict()
    lambdas = set()
    for measured in grams[7:]:
        state.update(measured)
        restored.update(measured)
        assert restored.lambda_.item() == state.lambda_.item()
        lambdas.add(state.lambda_.item())
    assert len(lambdas) == 13
    assert restored.skipped == 1
    assert restored.lambda_.dtype == torch.float32


def test_the_state_follows_the_gradients_device():
    state = make_state()
    state.to(torch.device("meta"))
    assert {state.lambda_.device.type, state.sums.device.type, state.weight.device.type} == {"meta"}
