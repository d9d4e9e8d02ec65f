"""λ over the measurements of a run."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_kd_lambda.balancing.rules import Rule, Weights
from hf_kd_lambda.balancing.rules.common_descent import MGDA, PCGrad
from hf_kd_lambda.balancing.rules.norm_based import Adaptive, Evidence, GradNorm, NormRatio
from hf_kd_lambda.balancing.rules.task_first import DTO, Taylor2
from hf_kd_lambda.balancing.state import LambdaState, Measurement
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.utils.log_keys import LIMITS


def gram(a, b, c=0.0, losses=(1.0, 1.0), norms=None):
    entries = torch.stack([torch.as_tensor(x, dtype=torch.float32) for x in (a, b, c)])
    return Measurement(Gram(*entries), torch.tensor(losses), entries[:2] if norms is None else norms)


def make_state(**settings):
    defaults = {"rule": NormRatio(), "decay": 0.9, "bounds": (1e-3, 1e3), "max_change": 80.0}
    return LambdaState(**{**defaults, **settings})


def random_grams(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = [torch.randn(2, 5, generator=generator) for _ in range(count)]
    return [gram((task @ task).item(), (kd @ kd).item(), (task @ kd).item()) for task, kd in pairs]


def without_counts(state):
    return {name: value for name, value in state.state_dict().items() if name != "counts"}


def test_lambda_starts_at_1_within_the_bounds():
    assert make_state().lambda_.item() == 1
    assert make_state(bounds=(0.1, 0.25)).lambda_.item() == 0.25
    assert make_state(bounds=(2, 9)).lambda_.item() == 2
    assert make_state(bounds=(2, 9)).lambda_.dtype == torch.float32


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


@pytest.mark.parametrize("rule", [GradNorm(), DTO()], ids=["gradnorm", "dto"])
@pytest.mark.parametrize("empty", [gram(0, 1, losses=(0.0, 1.0)), gram(1, 0, losses=(1.0, 0.0))], ids=["task", "kd"])
def test_a_batch_without_items_of_a_loss_changes_nothing(rule, empty):
    state, twin = make_state(rule=rule), make_state(rule=rule)
    for measured in (gram(2, 3, losses=(0.7, 0.2)), gram(2, 1, losses=(0.5, 0.1))):
        state.update(empty)
        state.update(measured)
        twin.update(measured)
    assert state.lambda_.item() == pytest.approx(twin.lambda_.item(), rel=1e-6)


def test_the_inner_product_is_averaged_too():
    state = make_state(decay=0.5)
    state.update(gram(1, 1, 0.8))
    assert state.signal.gram.dot.item() == pytest.approx(0.8)
    state.update(gram(1, 1, 0.5))
    assert state.signal.gram.dot.item() == pytest.approx((0.25 * 0.8 + 0.5 * 0.5) / 0.75)


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
    state = make_state(rule=Adaptive(), bounds=(0.5, 10.0))
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
    for either in (state, twin):
        either.update(gram(1, 4, -1))
    entries = [1.0, 1.0, 0.0]
    entries[entry] = bad
    state.update(gram(*entries))
    assert without_counts(state) == {**without_counts(twin), "skipped": 1}
    for either in (state, twin):
        either.update(gram(9, 1))
    assert state.lambda_ == twin.lambda_


@pytest.mark.parametrize("first", [True, False])
def test_a_loss_that_is_not_finite_is_left_out_of_the_averages(first):
    state, twin = make_state(), make_state()
    for either in (state, twin):
        if not first:
            either.update(gram(1, 4, losses=(1.0, 2.0)))
    state.update(gram(1, 4, losses=(math.nan, 1.0)))
    twin.update(gram(1, 4, losses=(1.0, math.nan)))
    for either in (state, twin):
        either.update(gram(1, 4, losses=(0.5, 0.25)))
    assert state.losses.state_dict() == twin.losses.state_dict()
    assert state.losses.value.isfinite().all()
    assert state.first_losses.tolist() == ([0.5, 0.25] if first else [1.0, 2.0])


def test_a_vanishing_gradient_holds_the_length_of_the_step():
    state = make_state(form="raw")
    state.update(gram(4, 1))
    before = [weight.item() for weight in state.weights]
    state.update(gram(0, 1))
    assert [weight.item() for weight in state.weights] == before


def test_a_non_finite_first_measurement_does_not_count_as_the_first():
    state = make_state(max_change=0.1)
    state.update(gram(math.nan, 1))
    assert state.lambda_.item() == 1
    state.update(gram(1, 4))
    assert state.lambda_.item() == 0.5


@pytest.mark.parametrize("measured", [gram(0, 1), gram(1, 0), gram(0, 0), gram(1e-45, 1), gram(1, 1e-45)])
@pytest.mark.parametrize("rule", [NormRatio(), Adaptive()])
def test_a_vanishing_gradient_holds_lambda_and_is_no_error(measured, rule):
    state = make_state(rule=rule)
    before = state.lambda_.clone(), state.grams.state_dict()
    state.update(measured)
    assert (state.lambda_, state.grams.state_dict()) == before
    assert state.skipped == 0
    assert state.logs()["lambda_held"] == 1


@given(
    st.lists(st.tuples(*[st.floats(0, 2.0**120, width=32)] * 2, st.floats(-1, 1, width=32)), min_size=1, max_size=5)
)
def test_lambda_stays_finite_and_within_bounds_whatever_is_measured(measurements):
    state = make_state(rule=Adaptive(), bounds=(0.1, 10.0), max_change=0.5)
    for a, b, cosine in measurements:
        state.update(gram(a, b, cosine * math.sqrt(a) * math.sqrt(b)))
        assert 0.1 <= state.lambda_.item() <= 10


def test_the_state_survives_json_and_continues_bit_for_bit():
    state = make_state(rule=Adaptive(), max_change=0.2)
    grams = random_grams(20)
    for measured in (*grams[:7], gram(math.nan, 1)):
        state.update(measured)
    restored = make_state(rule=Adaptive(), max_change=0.2)
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
    assert {state.lambda_.device.type, state.grams.sums.device.type, state.counts.device.type} == {"meta"}


# --- weights


@pytest.mark.parametrize(
    ("form", "weights"), [("convex", (0.5, 0.5)), ("sum_two", (1, 1)), ("additive", (1, 1)), ("raw", (1.5, 1.5))]
)
def test_the_form_sets_the_length_and_not_the_direction(form, weights):
    state = make_state(rule=PCGrad(), form=form)
    state.update(gram(4, 4, -2))  # the rule's own weights are 1 + 2/4 each
    assert [weight.item() for weight in state.weights] == pytest.approx(weights)


def test_a_rule_without_the_task_loss_ends_at_the_ceiling():
    state = make_state(rule=MGDA(), bounds=(0.1, 10.0), form="raw")
    state.update(gram(9, 1, 2))  # the KD gradient is the shortest combination
    assert state.lambda_.item() == 10
    assert [weight.item() for weight in state.weights] == pytest.approx([1 / 11, 10 / 11])


@pytest.mark.parametrize("limit", ["lambda_max", "lambda_max_change", "an uninformative teacher"])
def test_a_limited_lambda_leaves_the_task_weight_of_a_rule_at_1(limit):
    rule = Evidence() if limit == "an uninformative teacher" else NormRatio()
    state = make_state(rule=rule, form="raw", decay=0.0, bounds=(0.1, 10.0), max_change=0.5)
    if rule.needs:
        state.teacher_signal.update(torch.tensor([0.01, 10]))  # a mean distance from uniform of 0.001
    if limit == "lambda_max_change":
        state.update(gram(1, 1))
    state.update(gram(1e4, 1))  # √(a/b) is 100
    kd = {"lambda_max": 10, "lambda_max_change": math.exp(0.5), "an uninformative teacher": 1}[limit]
    assert [weight.item() for weight in state.weights] == pytest.approx([1, kd])


def test_groups_are_as_many_states():
    grams, twin_grams = random_grams(6, seed=1), random_grams(6, seed=2)
    both, one, other = (
        make_state(rule=Adaptive(), num_groups=2),
        make_state(rule=Adaptive()),
        make_state(rule=Adaptive()),
    )
    for left, right in zip(grams, twin_grams, strict=True):
        pairs = zip(left.gram, right.gram, strict=True)
        both.update(gram(*(torch.stack(pair) for pair in pairs)))
        one.update(left)
        other.update(right)
    assert both.lambda_.tolist() == pytest.approx([one.lambda_.item(), other.lambda_.item()])
    assert [weight.shape for weight in both.weights] == [(2,), (2,)]


def test_a_group_whose_gradient_vanishes_keeps_its_lambda():
    state = make_state(num_groups=2)
    state.update(gram(torch.tensor([4.0, 0.0]), torch.ones(2), torch.zeros(2)))
    assert state.lambda_.tolist() == [2, 1]
    assert state.logs()["lambda_held"] == 0.5


# --- what rules need in addition to the Gram matrix


class Recorder(Rule):
    """Keeps what it is called with."""

    needs = ("losses", "rates", "signal_share")

    def weights(self, gram, **needs):
        self.__dict__["seen"] = {name: value.tolist() for name, value in needs.items()}
        return Weights.additive(torch.ones_like(gram.task))


def test_losses_are_averaged_and_compared_with_the_first():
    state = make_state(rule=Recorder(), decay=0.5)
    state.update(gram(1, 1, losses=(2.0, 4.0)))
    assert state.rule.seen == {"losses": [2, 4], "rates": [1, 1], "signal_share": [1, 1]}
    state.update(gram(1, 1, losses=(1.0, 1.0)))
    task, kd = (0.25 * 2 + 0.5) / 0.75, (0.25 * 4 + 0.5) / 0.75
    assert state.rule.seen["losses"] == pytest.approx([task, kd])
    assert state.rule.seen["rates"] == pytest.approx([task / 2, kd / 4])


def test_estimates_without_noise_are_averaged_before_they_are_bounded():
    state = make_state(decay=0.5)
    norms = torch.tensor([4.0, 2.0])
    state.update(gram(-1, 1, 0.5, norms=norms))
    assert state.signal.share.tolist() == pytest.approx([0.01, 0.5])
    state.update(gram(2, 1, 0.5, norms=norms))
    a = (0.25 * -1 + 0.5 * 2) / 0.75
    assert state.signal.gram.task.item() == pytest.approx(a)
    assert state.signal_to_noise.tolist() == pytest.approx([a / (4 - a), 1])
    assert state.lambda_.item() == pytest.approx(math.sqrt(a))


def test_votes_become_odds():
    state = make_state(rule=Evidence(gamma=1.0))
    state.votes.update(torch.tensor([15.0, 0.0]))
    state.update(gram(1, 1))
    assert state.lambda_.item() == pytest.approx(20 / 5)
    logs = state.logs()
    assert [logs[name].item() for name in ("evidence_teacher", "evidence_label", "odds")] == [15, 0, 4]


def test_state_of_rules_that_keep_one_survives_json():
    for rule in (Evidence(), Taylor2()):
        state, restored = make_state(rule=rule), make_state(rule=rule)
        for measured in random_grams(3):
            state.update(measured)
            if state.votes is not None:
                state.votes.update(torch.tensor([2.0, 1.0]))
            if state.smoothness is not None:
                state.smoothness.update(measured.losses, measured.gram, state.weights, 0.1)
        restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
        assert restored.state_dict() == state.state_dict() != make_state(rule=rule).state_dict()


# --- what limited λ


@pytest.mark.parametrize(
    ("settings", "measured", "limit"),
    [
        ({}, gram(4, 1), "free"),
        ({"rule": Adaptive(kappa=8.0)}, gram(1, 1, -0.5), "clipped"),
        ({"rule": Adaptive(kappa=0.2)}, gram(1, 1, -0.5), "clipped"),
        ({"rule": Adaptive(kappa=0.6)}, gram(1, 1, -0.5), "free"),
        ({"rule": Adaptive(kappa=1.9)}, gram(1, 1, -0.5), "free"),
        ({"rule": NormRatio(kappa=8.0)}, gram(1, 1, -0.5), "free"),
        ({"max_change": 0.1}, gram(4, 1), "slowed"),
        ({"bounds": (1.0, 1.5)}, gram(4, 1), "ceiling"),
        ({"bounds": (0.9, 5.0)}, gram(1, 4), "floor"),
        ({}, gram(0, 1), "held"),
        ({}, gram(math.nan, 1), "skipped"),
    ],
)
def test_every_measurement_has_one_limit(settings, measured, limit):
    state = make_state(decay=0.0, **settings)
    state.update(gram(1, 1))
    state.logs()
    state.update(measured)
    logs = state.logs()
    assert {name: logs[LIMITS[name].key].item() for name in LIMITS} == {name: float(name == limit) for name in LIMITS}
    assert logs["lambda_conflict"] == (measured.gram.dot < 0)


def test_shares_are_of_the_measurements_since_the_last_log():
    state = make_state()
    for dot in (-0.5, 0.5, 0.5, 0.5):
        state.update(gram(1, 1, dot))
    assert state.logs()["lambda_conflict"] == 0.25
    state.update(gram(1, 1, -0.5))
    assert state.logs()["lambda_conflict"] == 1
    assert state.logs()["lambda_conflict"].isnan(), "nothing was measured since"
