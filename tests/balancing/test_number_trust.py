"""Trust in label and teacher of a regression: against densities by hand, and on planted errors."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from hf_kd_lambda.balancing.number_trust import (
    NumberReliabilities,
    Spread,
    Unit,
    number_posterior,
    numbers_of,
    unit_of,
)
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import item_labels


def numbers(student, teacher, labels, unit=None):
    return numbers_of(student.unsqueeze(-1), teacher.unsqueeze(-1), item_labels(labels), unit)


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.7), (0.2, 0.95), (0.99, 0.01)])
def test_trust_is_the_posterior(alpha, beta):
    torch.manual_seed(0)
    s, t, y = torch.randn(3, 20)
    spread = Spread(*torch.tensor([0.5, 0.2, 0.3, 0.1, 1.2, -0.1, 0.9]))
    found = number_posterior(numbers(s, t, y), torch.tensor(alpha), torch.tensor(beta), spread)
    m = torch.tensor([[0.5, 0.2], [0.2, 0.3]])
    any_label, any_teacher = (
        normal.log_prob(x).exp() for normal, x in ((Normal(0.1, 1.2**0.5), y), (Normal(-0.1, 0.9**0.5), t))
    )
    of_label, of_teacher = Normal(0, 0.5**0.5).log_prob(y - s).exp(), Normal(0, 0.3**0.5).log_prob(t - s).exp()
    both = alpha * beta * MultivariateNormal(torch.zeros(2), m).log_prob(torch.stack([y - s, t - s], -1)).exp()
    label = alpha * (1 - beta) * of_label * any_teacher
    teacher = (1 - alpha) * beta * any_label * of_teacher
    total = both + label + teacher + (1 - alpha) * (1 - beta) * any_label * any_teacher
    torch.testing.assert_close(found.both, both / total, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.trust.label, (both + label) / total, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.trust.teacher, (both + teacher) / total, rtol=1e-4, atol=1e-6)


def test_without_a_label_the_student_alone_judges_the_teacher():
    s, t = torch.zeros(2), torch.tensor([0.1, 3.0])
    spread = Spread(*torch.tensor([0.5, 0.2, 0.3, 0.0, 1.0, 0.0, 1.0]))
    found = number_posterior(
        numbers(s, t, torch.tensor([float("nan")] * 2)), torch.tensor(0.9), torch.tensor(0.7), spread
    )
    assert found.trust.label.tolist() == found.both.tolist() == [0.0, 0.0]
    informed = 0.7 * Normal(0, 0.3**0.5).log_prob(t).exp()
    torch.testing.assert_close(found.trust.teacher, informed / (informed + 0.3 * Normal(0, 1).log_prob(t).exp()))


def planted(alpha, beta, count, seed, student_error=0.6):
    """Student, teacher and labels in 0 to 5, of independent errors; uninformative ones are other items' numbers."""
    generator = torch.Generator().manual_seed(seed)
    truth = 5 * torch.rand(count, generator=generator)

    def annotator(informative, error):
        given = truth + error * torch.randn(count, generator=generator)
        other = given[torch.randperm(count, generator=generator)]
        return torch.where(torch.rand(count, generator=generator) < informative, given, other)

    return annotator(1.0, student_error), annotator(beta, 0.3), annotator(alpha, 0.2)


def fitted(data, unit=None):
    state = NumberReliabilities(unit=unit)
    for part in zip(*(values.split(32) for values in data), strict=True):
        seen = numbers(*part, unit)
        state.update(state.counts(seen, state.posterior(seen)))
    return state


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
@pytest.mark.parametrize(("alpha", "beta"), [(0.95, 0.95), (0.4, 0.95), (0.95, 0.4), (0.5, 0.5)])
def test_planted_reliabilities_and_errors_are_found(alpha, beta, seed):
    state = fitted(planted(alpha, beta, 2000, seed))
    assert state.alpha.item() == pytest.approx(alpha, abs=0.09)
    assert state.beta.item() == pytest.approx(beta, abs=0.09)
    assert state.spread.shared_error.item() == pytest.approx(0.6**2, abs=0.12)
    assert (state.spread.label_error - state.spread.shared_error).item() == pytest.approx(0.2**2, abs=0.06)


@pytest.mark.parametrize("unit", [1e-4, 1e4])
def test_the_unit_of_the_labels_changes_nothing(unit):
    data = planted(0.6, 0.8, 2000, 0)
    state, other = fitted(data), fitted([unit * values for values in data])
    assert (other.alpha.item(), other.beta.item()) == pytest.approx((state.alpha.item(), state.beta.item()), 1e-3)


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e15, 0.0), (1.0, 1e5)])
def test_measured_in_their_unit_labels_may_have_any_scale_and_origin(scale, shift):
    data = planted(0.6, 0.8, 2000, 0)
    others = [scale * values + shift for values in data]
    state, other = (fitted(given, unit_of(given[2].double().numpy())) for given in (data, others))
    assert (other.alpha.item(), other.beta.item()) == pytest.approx((state.alpha.item(), state.beta.item()), 0.01)
    assert state.alpha.item() == pytest.approx(0.6, abs=0.07)


@pytest.mark.parametrize("share", [0.002, 0.01])
def test_outliers_do_not_make_wrong_labels_look_right(share):
    student, teacher, labels = planted(0.7, 0.7, 4000, 0)
    outliers = torch.rand(4000, generator=torch.Generator().manual_seed(9)) < share
    data = (student, teacher, torch.where(outliers, 100 * labels, labels))
    unit = unit_of(data[2].double().numpy())
    state = fitted(data, unit)
    assert state.alpha.item() == pytest.approx(0.7, abs=0.07)
    trust = state.posterior(numbers(*data, unit)).trust.label
    assert (trust[outliers & (labels > 1)] < 0.1).float().mean() > 0.8  # those of the largest numbers look right


def test_skewed_labels_that_are_right_are_trusted_where_they_are_large():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, generator=generator).exp()
    data = [truth * (error * torch.randn(4000, generator=generator)).exp() for error in (0.6, 0.3, 0.2)]
    unit = unit_of(data[2].double().numpy())
    trust = fitted(data, unit).posterior(numbers(*data, unit)).trust.label
    assert trust[truth > truth.quantile(0.9)].mean() > 0.9


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0, 1e9], (3.0, 1.4826)),
        ([0.0, 0.0, 0.0, 4.0], (0.0, 3**0.5)),
        ([7.0, 7.0], (7.0, 1.0)),
        ([0.1, 0.1, 0.1], (0.1, 1.0)),
        ([0.3, 0.1 + 0.2, 0.3, 4.3], (0.3, 3**0.5)),
    ],
    ids=["outlier", "mostly equal", "equal", "equal but for rounding", "mostly equal but for rounding"],
)
def test_the_unit_is_median_and_robust_deviation(labels, expected):
    assert unit_of(np.array(labels)) == pytest.approx(expected)


def test_the_unit_of_a_state_is_that_of_its_sums():
    state = NumberReliabilities(unit=Unit(2.0, 0.5))
    restored = NumberReliabilities(unit=Unit(9.0, 9.0))
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert restored.unit == state.unit


def test_a_student_that_knows_nothing_makes_neither_look_wrong():
    _, teacher, labels = planted(0.95, 0.95, 2000, 0)
    state = fitted((torch.full((2000,), 2.5), teacher, labels))
    assert state.alpha.item() == pytest.approx(0.95, abs=0.1)
    assert state.beta.item() == pytest.approx(0.95, abs=0.1)


def test_weights_are_one_before_the_variances_are_known_and_one_on_average_then():
    data = planted(0.6, 0.8, 600, 0)
    state, seen = fitted(data), numbers(*data)
    sums = state.sums / state.sums[1]  # divided by the weight of the labelled items
    for weight in (0.0, 7.9, 8.1):
        state.sums = weight * sums
        student, teacher, label = (values[:32] for values in data)
        weights, _ = state.observe(student.unsqueeze(-1), TeacherBatch(teacher.unsqueeze(-1)), item_labels(label))
        are_one = weights.task.eq(1) & weights.kd.eq(1)
        assert are_one.all() == (weight < 8), weight
    state = NumberReliabilities()
    for _ in range(300):
        state.update(state.counts(seen, state.posterior(seen)))
    for weights in state.weights(state.posterior(seen).trust)[:2]:
        assert weights.mean().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("unlabelled", [1.0, 0.9], ids=["no label", "few labels"])
@pytest.mark.parametrize("size", [4, 8, 32])
def test_a_good_teacher_is_trusted_although_the_first_items_have_no_label(unlabelled, size):
    student, teacher, labels = planted(0.95, 0.95, 2000, 0)
    labels[torch.rand(2000, generator=torch.Generator().manual_seed(1)) < unlabelled] = torch.nan
    labels[:size] = torch.nan
    state = NumberReliabilities()
    for part in zip(*(values.split(size) for values in (student, teacher, labels)), strict=True):
        seen = numbers(*part)
        state.update(state.counts(seen, state.posterior(seen)))
    trust = state.posterior(numbers(student, teacher, labels)).trust.teacher
    assert (trust < 0.1).float().mean() < 0.2
    if unlabelled == 1:
        assert (trust / state.beta).tolist() == [1.0] * 2000


def test_counts_add_up_over_parts_and_the_state_is_restored_to_the_bit():
    data = planted(0.6, 0.8, 600, 0)
    state = fitted(data)
    seen = numbers(*data)
    whole = state.counts(seen, state.posterior(seen))
    parts = []
    for part in zip(*(values.split(100) for values in data), strict=True):
        seen = numbers(*part)
        parts.append(state.counts(seen, state.posterior(seen)))
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-5, atol=1e-4)
    restored = NumberReliabilities()
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert restored.sums.tolist() == state.sums.tolist()
    assert restored.alpha == state.alpha


def test_labels_that_are_all_equal_stay_finite():
    for numbers_given in itertools.product((0.0, 1.0, 300.0), repeat=3):  # of student, teacher and label
        given = torch.tensor(numbers_given).unsqueeze(1)
        state = fitted(given.expand(3, 64))
        weights = state.weights(state.posterior(numbers(*given.expand(3, 8))).trust)
        assert torch.stack(weights[:2]).isfinite().all(), numbers_given


def test_rounded_sums_of_clean_items_leave_the_weights_finite():
    state = fitted(planted(0.9, 0.9, 320, 0))
    state.sums[:4] = torch.tensor([1e6 + 20, 1e6, 1e6 + 20, 1e6])  # both Σr exceed their items
    weights = state.weights(state.posterior(numbers(*planted(0.9, 0.9, 320, 1))).trust)
    assert weights.task.isfinite().all()
    assert weights.kd.isfinite().all()


def test_sums_that_overflow_are_left_as_they_are():
    state = NumberReliabilities()
    huge = torch.full((12,), 3e38)
    state.update(huge)
    state.update(huge)
    assert state.sums.tolist() == huge.tolist()


def test_only_classes_have_a_second_number_for_no_label():
    labels = torch.tensor([-99.0, -100.0, -101.0, torch.nan])
    assert item_labels(labels).task.tolist() == [-99.0, -100.0, -101.0, -100.0]
    assert item_labels(torch.tensor([3, -100, -101])).task.tolist() == [3, -100, -100]
