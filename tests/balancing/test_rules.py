"""Rules by hand, by what defines them, and the properties that hold for every Gram matrix."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kd_lambda.balancing.rules import RULES, Rule, Weights, feasible_interval, loss_weights, make_rule, rule_weights
from hf_kd_lambda.gradients.gram import Gram

SIZES = st.floats(1e-6, 1e6)
COSINES = st.floats(-1, 1, allow_subnormal=False)  # a scale of 1e-3 could make a zero of a subnormal number
OBLIQUE = st.floats(-0.99, 0.99, allow_subnormal=False)
CONFLICTS = st.floats(-1, -0.01)
KAPPAS = st.floats(0.01, 100)
SHARES = st.floats(0.01, 1)
NEEDS = {
    "progress": 0.25,
    "losses": (0.7, 1.3),
    "rates": (0.5, 0.8),
    "smoothness": (0.3, 0.6),
    "signal_share": (0.2, 0.5),
    "odds": 1.5,
    "trust_ratio": 1.2,
}
MEASURED = [name for name, rule in RULES.items() if rule.measures]
# λ·g_kd keeps its share of the update if one of the losses is scaled.
SCALE_FREE = ["norm_ratio", "adaptive", "imtl_g", "nash", "config", "gradnorm", "snr", "evidence", "trust"]
SYMMETRIC = ["mgda", "pcgrad", "cagrad", "imtl_g", "nash", "config", "upgrad", "dual_proj", "aligned_mtl", "dto"]
FEASIBLE = ["adaptive", "taylor2", "mgda", "pcgrad", "imtl_g", "nash", "config", "upgrad", "dual_proj", "dto"]


def gram(a, b, cosine, dtype=torch.float64):
    """Gram matrix of two gradients with squared norms a and b."""
    return Gram(*(torch.tensor(x, dtype=dtype) for x in (a, b, cosine * math.sqrt(a) * math.sqrt(b))))


def weights(rule, matrix, needs=NEEDS, **hyper):
    """Those to train with."""
    rule = make_rule(rule, hyper)
    return rule(matrix, **{need: torch.tensor(needs[need], dtype=matrix.task.dtype) for need in rule.needs})


def ratio(rule, matrix, needs=NEEDS, **hyper):
    task, kd = weights(rule, matrix, needs, **hyper)
    return (kd / task).item()


def at_least(left, right):
    return left >= right or left == pytest.approx(right, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("rule", "entries", "hyper", "expected"),
    [
        ("fixed", (1, 1, 0), {}, (0.5, 0.5)),
        ("fixed", (1, 1, 0), {"kd_weight": 0.75}, (0.25, 0.75)),
        ("fixed", (1, 1, 0), {"kd_weight": 3, "form": "additive"}, (1, 3)),
        ("linear", (1, 1, 0), {"progress": 0.0}, (0, 1)),
        ("linear", (1, 1, 0), {"progress": 0.75}, (0.75, 0.25)),
        ("linear", (1, 1, 0), {"progress": 0.5, "start": 0.25, "end": 0.75}, (0.5, 0.5)),
        ("cosine", (1, 1, 0), {"progress": 1 / 3}, (0.25, 0.75)),
        ("cosine", (1, 1, 0), {"progress": 1.0, "end": 0.5}, (0.5, 0.5)),
        ("step", (1, 1, 0), {"progress": 0.49}, (0, 1)),
        ("step", (1, 1, 0), {"progress": 0.5}, (1, 0)),
        ("step", (1, 1, 0), {"progress": 0.5, "start": 0.75, "end": 0.25, "at": 0.75}, (0.25, 0.75)),
        ("norm_ratio", (16, 4, 2), {}, (1, 2)),
        ("norm_ratio", (16, 4, 2), {"kappa": 1.5}, (1, 3)),
        ("adaptive", (16, 4, -4), {}, (1, 2)),  # neither loss increases for λ in [1, 4]
        ("adaptive", (16, 4, -4), {"kappa": 1.5}, (1, 3)),
        ("adaptive", (16, 4, -4), {"kappa": 0.1}, (1, 1)),
        ("adaptive", (16, 4, -4), {"kappa": 9.0}, (1, 4)),
        ("mgda", (16, 4, -4), {}, (2 / 7, 5 / 7)),
        ("mgda", (16, 4, 6), {}, (0, 1)),
        ("pcgrad", (16, 4, -4), {}, (1.25, 2)),
        ("pcgrad", (16, 4, 4), {}, (1, 1)),
        ("upgrad", (16, 4, -4), {}, (0.625, 1)),
        ("dual_proj", (16, 4, -6), {}, (0.5, 0.75)),
        ("cagrad", (1, 1, 0), {"radius": 0.5}, (0.75, 0.75)),
        ("cagrad", (0.01, 1, 0), {}, (0.5 + 2 * math.sqrt(1.01), 0.5)),  # the worse-off loss takes the whole ball
        ("cagrad", (16, 4, -4), {"radius": 0}, (0.5, 0.5)),
        ("imtl_g", (16, 4, 3), {}, (1 / 3, 2 / 3)),
        ("nash", (16, 4, -4), {}, (0.25 * math.sqrt(2), 0.5 * math.sqrt(2))),
        ("config", (16, 4, -4), {}, (0.75, 1.5)),
        ("aligned_mtl", (4, 1, 0), {}, (0.25, 0.5)),  # both half as long as the shorter
        ("aligned_mtl", (100, 1, 10), {}, (0.5, 0.5)),
        ("gradnorm", (16, 4, 3), {"rates": (0.5, 1.0), "alpha": 1}, (0.4, 1.6)),
        ("gradnorm", (16, 4, 3), {"rates": (0.5, 1.0), "alpha": 0}, (2 / 3, 4 / 3)),
        ("cosine_gate", (16, 4, 2), {}, (1, 1)),
        ("cosine_gate", (16, 4, -2), {}, (1, 0)),
        ("cosine_gate", (16, 4, 2), {"weighted": True}, (1, 0.25)),
        ("cosine_gate", (16, 4, -2), {"weighted": True}, (1, 0)),
        ("dto", (16, 4, -4), {"losses": (2, 1)}, (0.25, 0.5)),  # both log-losses have gradients of length 2
        ("dto", (16, 4, 6), {"losses": (1, 1)}, (0, 1)),
        ("taylor2", (16, 4, 2), {"smoothness": (0.25, 9.0)}, (1, 1.5)),
        ("taylor2", (16, 4, 2), {"smoothness": (2.0, 9.0)}, (1, 0)),
        ("taylor2", (16, 4, -4), {"smoothness": (0.25, 9.0)}, (1, 1)),
        ("taylor2", (16, 4, -2), {"smoothness": (0.2, 0.3), "target": "sum"}, (1, 1.5)),
        ("taylor2", (16, 4, -2), {"smoothness": (0.02, 0.03), "target": "sum"}, (1, 8)),
        ("snr", (16, 4, 2), {"signal_share": (0.5, 0.25)}, (1, 1)),
        ("snr", (16, 4, 2), {"signal_share": (0.25, 0.5), "kappa": 0.5}, (1, 2)),
        ("evidence", (16, 4, 2), {"odds": 1.5}, (1, 4.5)),
        ("trust", (16, 4, 2), {"trust_ratio": 1.25}, (1, 2.5)),
        ("evidence", (16, 4, 2), {"odds": 1.5, "gamma": 1, "kappa": 2.0}, (1, 6)),
    ],
)
def test_by_hand(rule, entries, hyper, expected):
    assert rule_weights(rule, *entries, **hyper) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_every_rule_is_computed_by_hand_once():
    (parameters,) = (mark.args[1] for mark in test_by_hand.pytestmark if mark.name == "parametrize")
    assert {rule for rule, *_ in parameters} == set(RULES)


# What defines a rule, rather than its formula


@given(SIZES, SIZES, COSINES)
def test_mgda_is_the_shortest_combination(a, b, cosine):
    a, b, c = gram(a, b, cosine)
    task, kd = weights("mgda", Gram(a, b, c))
    others = torch.linspace(0, 1, 101, dtype=torch.float64)
    shortest = (others**2 * a + (1 - others) ** 2 * b + 2 * others * (1 - others) * c).min()
    assert task + kd == 1
    assert task**2 * a + kd**2 * b + 2 * task * kd * c <= shortest + 1e-12 * (a + b)


@given(SIZES, SIZES, OBLIQUE)
def test_imtl_g_has_equal_projections_and_nash_solves_its_equation(a, b, cosine):
    a, b, c = gram(a, b, cosine)
    task, kd = weights("imtl_g", Gram(a, b, c))
    assert ((task * a + kd * c) / a.sqrt()).item() == pytest.approx(((task * c + kd * b) / b.sqrt()).item(), rel=1e-9)
    task, kd = weights("nash", Gram(a, b, c))
    assert (task * a + kd * c).item() == pytest.approx((1 / task).item(), rel=1e-9)
    assert (task * c + kd * b).item() == pytest.approx((1 / kd).item(), rel=1e-9)


@given(SIZES, SIZES, OBLIQUE)
def test_config_is_as_long_as_its_two_equal_projections(a, b, cosine):
    a, b, c = gram(a, b, cosine)
    task, kd = weights("config", Gram(a, b, c))
    length = (task**2 * a + kd**2 * b + 2 * task * kd * c).sqrt()
    on_task, on_kd = (task * a + kd * c) / length, (task * c + kd * b) / length  # of g_task and g_kd onto the update
    assert (on_task / a.sqrt()).item() == pytest.approx((on_kd / b.sqrt()).item(), rel=1e-9)
    assert length.item() == pytest.approx((on_task + on_kd).item(), rel=1e-9)


@given(SIZES, SIZES, OBLIQUE, st.floats(0, 0.99))
def test_cagrad_is_best_for_the_worse_off_loss_within_the_ball(a, b, cosine, radius):
    a, b, c = gram(a, b, cosine)
    least = (a + b + 2 * c).sqrt() / 2 * radius  # of |d − g_0|

    def worse_off(task, kd):
        return torch.minimum(task * a + kd * c, task * c + kd * b)

    task, kd = weights("cagrad", Gram(a, b, c), radius=radius)
    x, y = task - 0.5, kd - 0.5
    assert ((x**2 * a + y**2 * b + 2 * x * y * c).sqrt()).item() == pytest.approx(least.item(), rel=1e-6)
    angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)
    x, y = angles.cos(), angles.sin()
    others = least / (x**2 * a + y**2 * b + 2 * x * y * c).sqrt()
    assert worse_off(task, kd) >= worse_off(0.5 + others * x, 0.5 + others * y).max() - 1e-9 * (a + b)


@given(SIZES, SIZES, COSINES, st.tuples(SHARES, SHARES), st.sampled_from(["task", "sum"]))
def test_along_taylor2s_step_the_bound_falls_most(a, b, cosine, smoothness, target):
    a, b, c = gram(a, b, cosine)

    def bound(lambda_):
        """Upper bound of ΔL/η."""
        squared_length = a + 2 * lambda_ * c + lambda_**2 * b
        task = -(a + lambda_ * c) + smoothness[0] / 2 * squared_length
        return task if target == "task" else task - (c + lambda_ * b) + smoothness[1] / 2 * squared_length

    _, lambda_ = weights("taylor2", Gram(a, b, c), {"smoothness": smoothness}, target=target)
    low, high = feasible_interval(Gram(a, b, c))
    others = torch.linspace(0, 1, 101, dtype=torch.float64)
    others = low + others * (torch.minimum(high, 100 * (a / b).sqrt()) - low).clamp(min=0)
    assert (bound(lambda_) <= bound(others) + 1e-9 * (bound(others).abs() + a)).all()


@settings(max_examples=20)  # 400 steps each
@given(SIZES, SIZES)
def test_gradnorm_without_asymmetry_is_where_its_own_descent_ends(a, b):
    lengths = torch.tensor([math.sqrt(a / (a + b)), math.sqrt(b / (a + b))], dtype=torch.float64)
    found = torch.ones(2, dtype=torch.float64)
    for rate in (0.1 * 0.97**step for step in range(400)):
        norms = (found * lengths).requires_grad_()
        (norms - norms.mean().detach()).abs().sum().backward()
        found = (found - rate * lengths * norms.grad).clamp(min=1e-6)
        found = 2 * found / found.sum()
    expected = torch.stack(weights("gradnorm", gram(a, b, 0.0), alpha=0))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


# Properties


@given(SIZES, SIZES, CONFLICTS)
def test_the_feasible_interval_is_never_empty_and_its_geometric_mean_is_the_norm_ratio(a, b, cosine):
    low, high = (bound.item() for bound in feasible_interval(gram(a, b, cosine)))
    assert at_least(high, low)
    assert math.sqrt(low * high) == pytest.approx(math.sqrt(a / b), rel=1e-9)


@given(SIZES, SIZES, st.floats(0, 1), KAPPAS)
def test_without_conflict_every_lambda_is_feasible_and_adaptive_is_norm_ratio(a, b, cosine, kappa):
    matrix = gram(a, b, cosine)
    assert [bound.item() for bound in feasible_interval(matrix)] == [0, math.inf]
    assert ratio("adaptive", matrix, kappa=kappa) == ratio("norm_ratio", matrix, kappa=kappa)


@given(SIZES, SIZES, CONFLICTS, KAPPAS)
def test_adaptive_leaves_kappa_alone_where_it_is_feasible(a, b, cosine, kappa):
    matrix = gram(a, b, cosine)
    low, high = (bound.item() for bound in feasible_interval(matrix))
    wanted = ratio("norm_ratio", matrix, kappa=kappa)
    assert ratio("adaptive", matrix, kappa=kappa) in ((wanted,) if low <= wanted <= high else (low, high))


def test_every_rule_that_clips_claims_feasibility():
    assert {name for name, rule in RULES.items() if rule.clips} <= set(FEASIBLE)


@pytest.mark.parametrize("rule", FEASIBLE)
@given(SIZES, SIZES, COSINES, st.tuples(SHARES, SHARES), KAPPAS)
def test_along_the_update_neither_loss_increases(rule, a, b, cosine, shares, kappa):
    matrix = gram(a, b, cosine)
    hyper = {"kappa": kappa} if rule == "adaptive" else {}
    task, kd = weights(rule, matrix, {"smoothness": shares, "losses": shares}, **hyper)
    _, _, c = matrix
    assert at_least((task * a).item(), (-kd * c).item()), "task loss"
    assert at_least((kd * b).item(), (-task * c).item()), "KD loss"


@pytest.mark.parametrize("rule", SCALE_FREE)
@given(SIZES, SIZES, COSINES, st.floats(0.1, 10))
def test_lambda_scales_with_the_task_loss_and_against_the_kd_loss(rule, a, b, cosine, s):
    lambda_ = ratio(rule, gram(a, b, cosine))
    assert ratio(rule, gram(s * s * a, b, cosine)) == pytest.approx(s * lambda_, rel=1e-9)
    assert ratio(rule, gram(a, s * s * b, cosine)) == pytest.approx(lambda_ / s, rel=1e-9)


@given(SIZES, SIZES, st.floats(-1, 0, allow_subnormal=False), st.floats(0.1, 10))
def test_dto_does_not_see_the_scale_of_a_loss(a, b, cosine, s):
    lambda_ = ratio("dto", gram(a, b, cosine), {"losses": (0.7, 1.3)})
    assert ratio("dto", gram(s * s * a, b, cosine), {"losses": (0.7 * s, 1.3)}) == pytest.approx(s * lambda_, rel=1e-6)


@pytest.mark.parametrize("rule", MEASURED)
@given(SIZES, SIZES, OBLIQUE, st.sampled_from([1e-3, 0.5, 3.0, 1e3]))
def test_lambda_does_not_see_the_scale_of_both_losses(rule, a, b, cosine, s):
    task, kd = loss_weights(torch.tensor(ratio(rule, gram(a, b, cosine))), "convex", 1.0)
    scaled = loss_weights(torch.tensor(ratio(rule, gram(s * a, s * b, cosine))), "convex", 1.0)
    torch.testing.assert_close(torch.stack(scaled), torch.stack((task, kd)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", SYMMETRIC)
@given(SIZES, SIZES, OBLIQUE)
def test_swapping_the_losses_swaps_the_weights(rule, a, b, cosine):
    task, kd = weights(rule, gram(a, b, cosine), {"losses": (0.7, 1.3)})
    swapped = weights(rule, gram(b, a, cosine), {"losses": (1.3, 0.7)})
    torch.testing.assert_close(torch.stack((swapped.kd, swapped.task)), torch.stack((task, kd)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", [name for name in MEASURED if name != "cosine_gate"])  # which switches there
@given(SIZES, SIZES, st.sampled_from([-1e-9, 1e-9]))
def test_weights_are_continuous_where_conflict_begins(rule, a, b, cosine):
    at, near = (torch.stack(weights(rule, gram(a, b, c))) for c in (0.0, cosine))
    largest = max(a, b) / min(a, b)  # CAGrad's and PCGrad's weights grow with it, and so does their slope
    torch.testing.assert_close(near, at, rtol=1e-6, atol=1e-8 * math.sqrt(largest))


@given(SIZES, SIZES, COSINES)
def test_the_weighted_cosine_gate_is_the_cosine_where_there_is_no_conflict(a, b, cosine):
    assert ratio("cosine_gate", gram(a, b, cosine), weighted=True) == pytest.approx(max(0.0, cosine), rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_groups_get_what_each_would_get_alone(rule):
    entries = [(16.0, 4.0, 0.3), (1e-3, 5.0, -0.7), (2.0, 2.0, 1.0), (0.0, 1.0, 0.0), (3.0, 0.2, -1.0)]
    alone = [torch.stack(weights(rule, gram(*entry))) for entry in entries]
    together = weights(rule, Gram(*map(torch.stack, zip(*(gram(*entry) for entry in entries), strict=True))))
    assert isinstance(together, Weights)
    # Not bit by bit: several numbers at once may go through other instructions than one does.
    torch.testing.assert_close(torch.stack(together, dim=1), torch.stack(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_waits_for_a_value(rule):
    rule = make_rule(rule, {})
    matrix = Gram(*torch.ones(3, 7, device="meta"))  # tensors that have no values
    task, kd = rule(matrix, **{need: torch.tensor(NEEDS[need], device="meta") for need in rule.needs})
    assert task.shape == kd.shape == (7,)


def test_signal_shares_may_differ_between_groups():
    matrix = Gram(torch.tensor([16.0, 16.0]), torch.tensor([4.0, 4.0]), torch.zeros(2))
    _, kd = weights("snr", matrix, {"signal_share": [[0.5, 0.5], [0.25, 0.5]]})
    assert kd.tolist() == [1, 2]


# Edges


def edge_grams(dtype):
    info = torch.finfo(dtype)
    sizes = [0.0, info.tiny, 1e-30, 1e-10, 0.3, 1 - info.eps, 1.0, 1 + info.eps, 1e5, 1e30, info.max]
    cosines = [-1 - 4 * info.eps, -1.0, -1 + 4 * info.eps, -0.5, -1e-9, -0.0]
    cosines += [-cosine for cosine in cosines]
    entries = [
        (a, b, cosine * math.sqrt(a) * math.sqrt(b)) for a, b, cosine in itertools.product(sizes, sizes, cosines)
    ]
    columns = torch.tensor(entries, dtype=torch.float64).T.to(dtype)
    return Gram(*columns[:, columns.isfinite().all(dim=0)])


EDGE_NEEDS = {
    "usual": {},
    "zero": {"losses": (0.0, 0.0), "rates": (0.0, 0.0), "smoothness": (0.0, 0.0)},
    "task zero": {"losses": (0.0, 1.0), "rates": (1.0, 0.0), "smoothness": (-1.0, 2.0)},
    "KD zero": {"losses": (1.0, 0.0), "rates": (0.0, 1.0), "smoothness": (1e9, 1e9)},
}


@pytest.mark.parametrize("rule", RULES)
def test_weights_are_finite_not_negative_and_not_both_zero(rule):
    for dtype, (case, needs) in itertools.product((torch.float32, torch.float64), EDGE_NEEDS.items()):
        matrix = edge_grams(dtype)
        task, kd = weights(rule, matrix, NEEDS | needs)
        assert task.shape == kd.shape == matrix.task.shape, (case, dtype)
        assert task.dtype == kd.dtype == dtype, case
        assert torch.stack((task, kd)).isfinite().all(), (case, dtype)
        assert (torch.stack((task, kd)) >= 0).all(), (case, dtype)
        assert (task + kd > 0).all(), (case, dtype)


@pytest.mark.parametrize("rule", sorted({*SYMMETRIC, *SCALE_FREE} - {"dto", "gradnorm", "snr", "evidence", "trust"}))
def test_of_two_vanishing_gradients_both_losses_weigh_the_same(rule):
    assert ratio(rule, gram(0.0, 0.0, 0.0)) == pytest.approx(1)


@pytest.mark.parametrize("rule", ["norm_ratio", "adaptive", "imtl_g", "nash", "config", "pcgrad", "cagrad"])
def test_lambda_nears_its_limit_where_a_gradient_vanishes(rule):
    slight, none = (ratio(rule, gram(a, 1.0, 0.0)) for a in (1e-12, 0.0))
    assert none == pytest.approx(slight, abs=1e-5)


@pytest.mark.parametrize("rule", ["adaptive", "mgda", "imtl_g", "nash", "config", "aligned_mtl"])
def test_opposite_gradients_leave_the_one_lambda_at_which_they_cancel(rule):
    assert ratio(rule, gram(9, 4, -1.0)) == pytest.approx(1.5, rel=1e-6)


@pytest.mark.parametrize("rule", SYMMETRIC)
def test_equal_gradients_of_equal_losses_weigh_the_same(rule):
    assert ratio(rule, gram(2.0, 2.0, 1.0), {"losses": (1.0, 1.0)}) == pytest.approx(1)


def moved(value, steps):
    """By so many units in the last place."""
    for _ in range(abs(steps)):
        value = torch.nextafter(value, torch.full_like(value, math.copysign(math.inf, steps)))
    return value


EQUAL_NEEDS = dict.fromkeys(("losses", "rates"), (1.0, 1.0)) | {"signal_share": (0.5, 0.5)}
EQUAL_NEEDS |= dict.fromkeys(("odds", "trust_ratio"), 1.0)


@pytest.mark.parametrize("rule", sorted({*SYMMETRIC, *SCALE_FREE}))
def test_gradients_that_are_equal_but_for_rounding_weigh_the_same(rule):
    for dtype, size in itertools.product((torch.float32, torch.float64), (1.0, 1.9999, 2.0, 3.3e-9, 7e8)):
        near = torch.stack([moved(torch.tensor(size, dtype=dtype), steps) for steps in range(-2, 3)])
        matrix = Gram(*torch.cartesian_prod(near, near, near).T)
        task, kd = weights(rule, matrix, NEEDS | EQUAL_NEEDS)
        distance = (kd / (task + kd) - 0.5).abs().max()
        assert distance <= 1 / 32, (size, dtype)


@pytest.mark.parametrize("rule", SYMMETRIC)
def test_weights_have_no_jump_where_gradients_of_one_direction_become_equal(rule):
    for dtype in (torch.float32, torch.float64):
        b = 1 + torch.arange(-40.0, 41.0, dtype=dtype) * torch.finfo(dtype).eps
        found = torch.stack(weights(rule, Gram(torch.ones_like(b), b, b.sqrt()), {"losses": (1.0, 1.0)}))
        assert found.diff().abs().max() <= 1 / 32, dtype


def test_training_takes_no_negative_weight_though_aligned_mtl_has_one():
    published = rule_weights("aligned_mtl", 100.0, 1.0, 9.0)
    assert published[0] < 0 < published[1]
    assert [weight.item() for weight in weights("aligned_mtl", gram(100.0, 1.0, 0.9))] == [0, published[1]]


# By name


def test_public_weights_are_floats_for_floats_and_tensors_for_tensors():
    assert rule_weights("norm_ratio", 2.0, 1.0, 0.0) == pytest.approx((1, math.sqrt(2)), rel=1e-15)
    task, kd = rule_weights("norm_ratio", torch.tensor([16.0, 1.0]), torch.tensor(4.0), torch.tensor(0.0))
    assert (task.tolist(), kd.tolist(), kd.dtype) == ([1, 1], [2, 0.5], torch.float32)
    losses = torch.tensor([2.0, 1.0])
    assert rule_weights("dto", 16, 4, -4, losses=losses) == rule_weights("dto", 16, 4, -4, losses=(2.0, 1.0))


@pytest.mark.parametrize("rule", MEASURED)
def test_what_is_no_gram_matrix_has_no_weights(rule):
    needs = {need: NEEDS[need] for need in RULES[rule].needs}
    for entry in ((math.nan, 1, 0), (1, math.inf, 0), (1, 1, -math.inf), (1, -1, 0)):
        assert all(map(math.isnan, rule_weights(rule, *entry, **needs))), entry


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_rule("mdga", {}), "unknown rule 'mdga': did you mean 'mgda'?"),
        (lambda: rule_weights("pc_grad", 1, 1, 0), "unknown rule 'pc_grad': did you mean 'pcgrad'?"),
        (
            lambda: make_rule("evidence", {"gama": 1.0}),
            "unknown setting of rule 'evidence': 'gama': did you mean 'gamma'?",
        ),
        (lambda: make_rule("mgda", {"kappa": 1.0}), "unknown setting of rule 'mgda': 'kappa': it has none."),
        (lambda: make_rule("evidence", {"odds": 1.0}), "unknown setting of rule 'evidence': 'odds': choose from"),
        (
            lambda: rule_weights("dto", 1, 1, 0, loses=(1, 1)),
            "unknown keyword of rule 'dto': 'loses': did you mean 'losses'?",
        ),
        (lambda: rule_weights("dto", 1, 1, 0), "rule 'dto' needs losses in addition to a, b and c."),
        (lambda: make_rule("adaptive", {"kappa": "big"}), "kappa='big' must be a float, like its default 1.0."),
        (lambda: make_rule("adaptive", {"kappa": True}), "kappa=True must be a float"),
        (lambda: make_rule("cosine_gate", {"weighted": 1}), "weighted=1 must be a bool, like its default False."),
        (lambda: make_rule("taylor2", {"target": None}), "target=None must be a str"),
        (lambda: make_rule("taylor2", {"target": "kd"}), "target='kd' must be one of task, sum."),
        (lambda: make_rule("fixed", {"form": "raw"}), "form='raw' must be one of additive, convex."),
        (
            lambda: make_rule("fixed", {"kd_weight": 2}),
            "kd_weight=2 must lie in [0, 1] unless lambda_form is 'additive'.",
        ),
        (lambda: make_rule("fixed", {"kd_weight": -1, "form": "additive"}), "kd_weight=-1 must lie in [0, inf)."),
        (lambda: make_rule("linear", {"start": 2.0}), "start=2.0 must lie in [0, 1]."),
        (lambda: make_rule("cosine", {"end": -0.1}), "end=-0.1 must lie in [0, 1]."),
        (lambda: make_rule("step", {"at": 1.1}), "at=1.1 must lie in [0, 1]."),
        (lambda: make_rule("step", {"end": 1.1}), "end=1.1 must lie in [0, 1]."),
        (lambda: make_rule("norm_ratio", {"kappa": 0}), "kappa=0 must be a positive finite number."),
        (lambda: make_rule("snr", {"kappa": math.nan}), "kappa=nan must be a positive finite number."),
        (lambda: make_rule("evidence", {"kappa": math.inf}), "kappa=inf must be a positive finite number."),
        (lambda: make_rule("evidence", {"gamma": -1}), "gamma=-1 must lie in [0, inf)."),
        (lambda: make_rule("gradnorm", {"alpha": -1}), "alpha=-1 must lie in [0, inf)."),
        (lambda: make_rule("cagrad", {"radius": 1}), "radius=1 must lie in [0, 1)."),
    ],
)
def test_errors_name_what_is_wrong_and_what_was_meant(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()


@pytest.mark.parametrize(
    ("inputs", "measures", "message"),
    [
        (
            ("losses", "progress"),
            True,
            "unknown input of Own with measures=True: 'progress': choose from losses, rates",
        ),
        (("loses",), True, "unknown input of Own with measures=True: 'loses': did you mean 'losses'?"),
        (("odds",), False, "unknown input of Own with measures=False: 'odds': choose from progress."),
    ],
)
def test_a_rule_with_inputs_that_it_would_not_get_is_refused_where_it_is_defined(inputs, measures, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        type("Own", (Rule,), {"needs": inputs, "measures": measures})


# Forms


@given(st.floats(1e-6, 1e6), st.floats(0.1, 10))
def test_every_form_weighs_the_losses_in_the_ratio_lambda(lambda_, own):
    totals = {"additive": 1 + lambda_, "convex": 1.0, "sum_two": 2.0, "raw": own}
    for form, total in totals.items():
        task, kd = loss_weights(torch.tensor(lambda_, dtype=torch.float64), form, torch.tensor(own))
        assert (kd / task).item() == pytest.approx(lambda_, rel=1e-9)
        assert (task + kd).item() == pytest.approx(total, rel=1e-6)


def test_additive_form_leaves_the_task_loss_alone():
    assert [weight.item() for weight in loss_weights(torch.tensor(3.0), "additive", 1.0)] == [1, 3]


@pytest.mark.parametrize(("lambda_", "expected"), [(0.0, (1, 0)), (math.inf, (0, 1))])
def test_either_loss_alone_is_a_convex_form_too(lambda_, expected):
    assert loss_weights(torch.tensor(lambda_), "convex", 1.0) == expected


@pytest.mark.parametrize("rule", MEASURED)
def test_raw_form_restores_what_the_rule_gave(rule):
    given_by_rule = weights(rule, gram(16, 4, 0.2))
    restored = loss_weights(given_by_rule.kd / given_by_rule.task, "raw", given_by_rule.task + given_by_rule.kd)
    torch.testing.assert_close(torch.stack(restored), torch.stack(given_by_rule))
