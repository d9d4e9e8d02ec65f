"""Regret, sweep cost, paired differences and speed, by hand."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from helpers.compared_runs import failed, made_up_run
from scipy.stats import bootstrap

from hf_kd_lambda.studies.comparison import merit
from hf_kd_lambda.studies.comparison.merit import Difference, Group, Reach, Regret, SweepCost

GROUP, OTHER = Group("t", "r"), Group("t", "s")
# The best fixed rule is `high` here, though `low` is best at seed 1, and `low` in the other regime.
SCORES = {"low": (0.70, 0.80), "high": (0.74, 0.78), "adaptive": (0.77, 0.79)}
SCORES_OTHER = {"low": (0.60, 0.60), "high": (0.50, 0.50), "adaptive": (0.55, 0.57)}


def runs_of(scores, regime="r", **settings):
    return [
        made_up_run(rule, seed, score, regime=regime, **settings)
        for rule, by_seed in scores.items()
        for seed, score in enumerate(by_seed)
    ]


def without(runs, *cells):
    return [run for run in runs if (run.rule, run.seed) not in cells]


RUNS = runs_of(SCORES)
BOTH = RUNS + runs_of(SCORES_OTHER, "s")


def test_regret_is_what_a_rule_loses_to_the_best_fixed_mean():
    found = {rule: merit.regrets(BOTH, rule) for rule in SCORES}
    points = {rule: [regret.points for regret in regrets.values()] for rule, regrets in found.items()}
    assert points["adaptive"] == pytest.approx([76 - 78, 60 - 56])
    assert points["low"] == pytest.approx([76 - 75, 0])
    assert points["high"] == pytest.approx([0, 60 - 50])
    assert list(found["adaptive"]) == [GROUP, OTHER]
    assert {regret.seeds for regret in found["adaptive"].values()} == {2}


def test_regret_is_over_the_seeds_that_rule_and_sweep_share():
    at_one_seed = without(RUNS, ("adaptive", 1))
    assert merit.regrets(at_one_seed, "adaptive") == {GROUP: Regret(pytest.approx(74 - 77), 1)}
    assert merit.regrets(at_one_seed, "low") == {GROUP: Regret(pytest.approx(76 - 75), 2)}
    without_sweep_there = without(RUNS, ("high", 0))
    assert merit.regrets(without_sweep_there, "adaptive") == {GROUP: Regret(pytest.approx(80 - 79), 1)}
    assert merit.regrets(without(RUNS, ("high", 0), ("adaptive", 1)), "adaptive") == {}


def test_half_a_sweep_is_none():
    unswept = [run for run in BOTH if run.cell[1:3] != ("s", "low")]
    assert merit.fixed_sweep(unswept, OTHER) == {}
    assert merit.best_fixed(unswept, OTHER) == {}
    assert list(merit.regrets(unswept, "adaptive")) == [GROUP]
    no_common_seed = without(RUNS, ("high", 0), ("low", 1))
    assert merit.fixed_sweep(no_common_seed, GROUP) == {}


def test_failed_runs_count_nowhere():
    seed_failed = [failed(run) if (run.rule, run.seed) == ("high", 0) else run for run in RUNS]
    assert merit.regrets(seed_failed, "adaptive") == merit.regrets(without(RUNS, ("high", 0)), "adaptive")
    rule_failed = [failed(run) if run.rule == "high" else run for run in RUNS]
    assert list(merit.fixed_sweep(rule_failed, GROUP)) == ["low"]  # its other rule has been tried
    assert merit.regrets(rule_failed, "adaptive") == {GROUP: Regret(pytest.approx(75 - 78), 2)}
    assert merit.regrets(rule_failed, "high") == {}
    all_failed = [failed(run) for run in RUNS]
    assert merit.groups(all_failed) == [GROUP]
    assert merit.regrets(all_failed, "adaptive") == {}
    assert merit.sweep_cost(all_failed, "adaptive") is None
    with pytest.raises(ValueError, match="out of memory"):
        merit.points(all_failed[0])


def test_best_fixed_rule_has_the_highest_mean():
    assert {run.rule for run in merit.best_fixed(BOTH, GROUP).values()} == {"high"}
    assert {run.rule for run in merit.best_fixed(BOTH, OTHER).values()} == {"low"}


def test_rules_are_ordered_by_their_lambda_and_the_others_as_they_came():
    schedule = made_up_run("schedule", log=[])
    never = failed(made_up_run("high"))
    assert merit.rules([schedule, *reversed(RUNS)]) == ["low", "high", "schedule", "adaptive"]
    assert merit.rules([never, *RUNS]) == ["low", "high", "adaptive"]
    assert merit.fixed_rules(RUNS) == ["low", "high"]


def test_uneven_groups_are_those_where_seeds_differ():
    assert not merit.is_uneven(BOTH, GROUP)
    assert merit.is_uneven(without(RUNS, ("low", 1)), GROUP)
    assert merit.is_uneven([failed(run) if run.rule == "low" else run for run in RUNS], GROUP)


def test_sweep_cost_is_seconds_of_the_sweep_over_those_of_a_run():
    seconds = {("low", 0): 10, ("high", 0): 20, ("adaptive", 0): 15, ("low", 1): 10, ("high", 1): 20}
    seconds |= {("adaptive", 1): 30}
    runs = [made_up_run(rule, seed, seconds=taken) for (rule, seed), taken in seconds.items()]
    assert merit.sweep_cost(runs, "adaptive") == SweepCost(pytest.approx((30 / 15 + 30 / 30) / 2), 2)
    assert merit.sweep_cost(without(runs, ("low", 1)), "adaptive") == SweepCost(pytest.approx(2), 1)


@pytest.mark.parametrize("other", [{"hardware": "another"}, {"settings": {"precision": "bf16"}}])
def test_seconds_of_other_hardware_or_precision_are_not_compared(other):
    runs = [made_up_run(rule, seed, seconds=10) for rule in ("low", "high", "adaptive") for seed in (0, 1)]
    assert merit.sweep_cost([*runs[:-1], replace(runs[-1], **other)], "adaptive") == SweepCost(pytest.approx(2), 1)


def test_differences_are_paired_by_group_and_seed():
    adaptive, low = (merit.of_rule(RUNS, GROUP, rule) for rule in ("adaptive", "low"))
    assert merit.paired(adaptive, low) == pytest.approx([7, -1])
    del low[0]
    assert merit.paired(adaptive, low) == pytest.approx([-1])
    assert merit.pooled(BOTH, "adaptive", "low") == pytest.approx([(7 - 1) / 2, (-5 - 3) / 2])
    assert merit.pooled(BOTH[:-1], "adaptive", "low") == pytest.approx([(7 - 1) / 2, -5])


def test_a_tuned_weight_is_the_best_at_the_other_seeds():
    tuned = merit.against_tuned(BOTH, "adaptive")
    # low, as at seed 1, and high, as at seed 0; then low
    assert tuned == pytest.approx([(77 - 70 + 79 - 78) / 2, (55 - 60 + 57 - 60) / 2])
    assert merit.against_tuned(without(BOTH, ("adaptive", 1)), "adaptive") == pytest.approx([77 - 70, 55 - 60])
    at_one_seed = [run for run in RUNS if run.seed == 0]
    assert merit.against_tuned(at_one_seed, "adaptive") == []


def test_interval_is_scipys_and_the_same_each_time():
    pairs = [7.0, -1.0, -5.0, -3.0, 2.5]
    found = merit.difference(pairs)
    expected = bootstrap(
        (pairs,), np.mean, n_resamples=9999, method="percentile", random_state=np.random.default_rng(0)
    )
    assert found == Difference(pytest.approx(0.1), tuple(expected.confidence_interval), 5)
    assert found == merit.difference(pairs)
    means = [np.mean(sample) for sample in product(pairs, repeat=5)]  # every resample there is
    assert found.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.25)


def test_few_or_equal_pairs_leave_no_interval_or_a_point():
    assert merit.difference([]) is None
    assert merit.difference([1.5]) == Difference(1.5, None, 1)
    assert merit.difference([1.5, 1.5]) == Difference(1.5, (1.5, 1.5), 2)


def curve(*scores):
    return made_up_run("adaptive", evaluations=enumerate(scores, start=1))


def test_reach_is_the_first_evaluation_at_99_percent():
    assert merit.reach([curve(0.5, 0.791, 0.793, 0.7, 0.8)], 80) == Reach(3, pytest.approx(0.3), 1, 1)
    three = [curve(0.8), curve(0.5, 0.5, 0.8), curve(0.5, 0.5, 0.5, 0.5)]
    assert merit.reach(three, 80) == Reach(3, pytest.approx(0.3), 2, 3)
    assert merit.reach(three[1:], 80) == Reach(math.inf, math.inf, 1, 2)
    assert merit.reach([curve(-0.11, -0.1005)], -10).steps == 2  # a correlation may be negative


def test_conflict_is_what_was_logged_of_it_or_the_share_of_negative_cosines():
    cosines = [{"grad_cosine": cosine} for cosine in (-0.5, 0.5, 0.0, 0.1)]
    assert merit.conflict_share(made_up_run("adaptive", log=cosines)) == 0.25
    logged = [{"lambda_conflict": 0.5, "grad_cosine": 1.0}, {"lambda_conflict": 1.0, "grad_cosine": 1.0}]
    assert merit.conflict_share(made_up_run("adaptive", log=logged)) == 0.75
    assert merit.conflict_share(made_up_run("low")) is None


def test_mean_lambda_is_geometric():
    assert merit.mean_lambda(made_up_run("adaptive")) == pytest.approx(2)  # of 1 and 4
    log = [{"lambda": value} for value in (1.0, 0.0, 4.0, math.nan)]
    assert merit.mean_lambda(made_up_run("adaptive", log=log)) == pytest.approx(2)
    assert merit.mean_lambda(made_up_run("adaptive", log=[{"lambda": 0.0}])) == 0
    assert merit.mean_lambda(made_up_run("adaptive", log=[])) is None
    doubled = made_up_run("adaptive", log=[{"lambda": 8.0}])
    assert merit.mean_lambda(made_up_run("adaptive"), doubled, made_up_run("x", log=[])) == pytest.approx(4)
