import json
import math

import pytest

from hf_kd_lambda.reports.summary import explain_lambda, lambda_summary
from hf_kd_lambda.utils.log_keys import LIMITS


def entry(step, lambda_, **logged):
    return {"step": step, "loss": 1.0, "lambda": lambda_, "kd_weight": lambda_ / (1 + lambda_)} | logged


def shares(**given):
    keys = {"conflict": "lambda_conflict"} | {name: limit.key for name, limit in LIMITS.items()}
    return {key: given.get(name, 0.0) for name, key in keys.items()}


# The second log covers three times as many steps as the first.
HISTORY = [
    entry(10, 1.9, **shares(conflict=0.4, slowed=1.0)),
    {"step": 10, "eval_loss": 0.3},
    entry(40, 0.4, **shares(free=0.8, floor=0.2)),
    {"step": 40, "train_runtime": 3.0},
]


def test_summary_of_a_history_weighs_each_log_by_the_steps_that_it_covers():
    summary = lambda_summary(HISTORY)
    assert summary == {
        "first": 1.9,
        "last": 0.4,
        "median": pytest.approx(1.15),
        "min": 0.4,
        "max": 1.9,
        "shares": {
            "conflict": pytest.approx(0.1),
            "free": pytest.approx(0.6),
            "clipped": 0.0,
            "slowed": pytest.approx(0.25),
            "floor": pytest.approx(0.15),
            "ceiling": 0.0,
            "held": 0.0,
            "skipped": 0.0,
        },
    }
    assert json.loads(json.dumps(summary)) == summary


def test_explanation_of_a_history_says_what_limited_lambda_and_what_to_do():
    assert explain_lambda(HISTORY).splitlines() == [
        "λ went from 1.9 to 0.4 (median 1.1, smallest 0.4, largest 1.9), which gives the KD loss 29% of the weight "
        "of both losses.",
        "In 10% of the measurements the losses conflicted: a step along one gradient increases the other loss.",
        "λ was set by the rule alone in 60% of the measurements, slowed by lambda_max_change in 25%, "
        "at lambda_min in 15%.",
        "Where a limit applied, λ was most often slowed by lambda_max_change: raise lambda_max_change to let "
        "λ follow the gradients faster, or gram_decay to make them less noisy.",
    ]


@pytest.mark.parametrize(
    ("limit", "setting"),
    [
        ("clipped", "set lambda_kappa closer to 1"),
        ("slowed", "lambda_max_change"),
        ("floor", "the rule would set λ lower"),
        ("ceiling", "a higher lambda_max may not help"),
        ("held", "memorised"),
        ("skipped", "learning_rate"),
    ],
)
def test_advice_is_on_what_limited_lambda_most_often(limit, setting):
    other = "ceiling" if limit == "floor" else "floor"
    advice = explain_lambda([entry(1, 1.0, **shares(free=0.5, **{limit: 0.3, other: 0.2}))]).splitlines()[-1]
    assert advice.startswith("Where a limit applied, λ was most often")
    assert setting in advice


def test_no_advice_where_lambda_was_hardly_ever_limited():
    lines = explain_lambda([entry(1, 1.0, **shares(free=0.95, ceiling=0.05))]).splitlines()
    assert lines[-1] == "λ was set by the rule alone in 95% of the measurements, at lambda_max in 5%."


def test_rare_is_not_never_and_often_not_always():
    text = explain_lambda([entry(1, 1.0, **shares(conflict=0.002, free=0.998, held=0.002))])
    assert "In under 1% of the measurements the losses" in text
    assert "set by the rule alone in over 99% of the measurements" in text
    assert "unchanged (a gradient is zero) in under 1%" in text


def test_a_signal_over_noise_of_one_gradient_alone_is_not_told():
    text = explain_lambda([entry(1, 1.0, snr_kd=0.5, odds=3.0), entry(2, 1.0, snr_task=float("inf"), snr_kd=0.5)])
    assert "Signal over noise" not in text
    assert " The odds" not in text
    assert "The odds that the student agrees" in text


def test_signal_odds_and_layers_are_reported_where_they_were_logged():
    logged = {"snr_task": 0.1, "snr_kd": 0.5, "evidence_teacher": 25.0, "evidence_label": 5.0, "odds": 3.0}
    layers = {"lambda/embeddings": 2.0, "lambda/layer.0": 1.0, "lambda/head": 0.5}
    log = [
        entry(1, 1.0, **logged, **layers),
        entry(2, 2.0, snr_task=0.3, snr_kd=0.5, odds=4.0),
        entry(3, 3.0, **layers),
    ]
    summary = lambda_summary(log)
    assert summary["snr_task"] == pytest.approx(0.2)
    assert {key: summary[key] for key in ("odds", "evidence_teacher", "evidence_label")} == {
        "odds": 4.0,
        "evidence_teacher": 25.0,
        "evidence_label": 5.0,
    }
    assert summary["layers"] == {"embeddings": 2.0, "layer.0": 1.0, "head": 0.5}
    assert explain_lambda(log).splitlines()[1:] == [
        "By layer, the median λ is lowest in head (0.5), highest in embeddings (2).",
        "Signal over noise is 0.2 in the task gradient, 0.5 in the KD gradient (medians). "
        "The odds that the student agrees with the teacher rather than the label were 4; only the first epoch counts.",
    ]


@pytest.mark.parametrize(
    ("names", "what"),
    [(("soft_targets", "hidden_mse"), "By KD loss"), (("soft_targets", "head"), "By layer"), (("head",), "By layer")],
)
def test_what_has_a_lambda_is_named(names, what):
    log = [entry(1, 1.0, **{f"lambda/{name}": 1.0 / rank for rank, name in enumerate(names, 1)})]
    assert explain_lambda(log).splitlines()[1].startswith(f"{what}, the median λ is lowest in {names[-1]} (")


def test_reliabilities_are_told_where_they_were_logged():
    log = [entry(step, 1.0, label_reliability=0.8, teacher_reliability=step / 4) for step in (1, 2)]
    summary = lambda_summary(log)
    assert (summary["label_reliability"], summary["teacher_reliability"]) == (0.8, 0.5)
    words = (
        "By estimate, 80% of the labels and 50% of the teacher's outputs are informative; the others are no better "
        "than guesses."
    )
    assert explain_lambda(log).splitlines()[-1] == words
    assert "teachers" not in summary
    reliabilities = {"teacher_reliability_10": 0.1, "teacher_reliability_9": 0.9}
    log = [{**one, **reliabilities} for one in log]
    assert lambda_summary(log)["teachers"] == [0.9, 0.1]
    assert explain_lambda(log).splitlines()[-1] == f"{words} By teacher, 90%, 10% of the outputs are informative."


def test_everything_at_once_takes_no_more_than_six_lines():
    logged = {"snr_task": 0.1, "snr_kd": 0.5, "odds": 3.0, "lambda/head": 1.0}
    log = [entry(1, 1.0, **shares(slowed=1.0), **logged), entry(2, 2.0, **shares(free=1.0), **logged)]
    assert len(explain_lambda(log).splitlines()) == 6


def test_fixed_rule_stays_where_it_is():
    log = [entry(step, 1.0) for step in (5, 10)]
    assert explain_lambda(log) == "λ stayed at 1, which gives the KD loss 50% of the weight of both losses."
    assert lambda_summary(log) == {"first": 1.0, "last": 1.0, "median": 1.0, "min": 1.0, "max": 1.0}


@pytest.mark.parametrize("log", [[], [{"step": 5, "eval_loss": 0.3}], [entry(5, math.inf)]])
def test_history_without_a_finite_lambda_says_so(log):
    assert lambda_summary(log) == {}
    assert explain_lambda(log).startswith("No finite λ was logged")


def test_values_that_are_not_finite_are_left_out():
    log = [
        entry(10, 2.0, snr_task=math.inf, **shares(free=0.5, slowed=0.5)),
        entry(20, math.nan, **shares(free=1.0)),
        entry(30, 1.0, **shares(free=math.nan)),
        entry(40, 3.0, **shares(free=1.0)),
    ]
    summary = lambda_summary(log)
    assert (summary["median"], summary["max"]) == (2.0, 3.0)
    assert "snr_task" not in summary
    assert summary["shares"]["free"] == pytest.approx(0.75)


def test_logs_without_a_measurement_do_not_count():
    log = [entry(10, 1.0, **shares(free=1.0)), entry(20, 1.0), entry(30, 1.0), entry(40, 2.0, **shares(slowed=1.0))]
    assert lambda_summary(log)["shares"]["free"] == pytest.approx(0.5)


CEILING = shares(free=0.1, ceiling=0.9)
SURE = {"evidence_teacher": 30.0, "evidence_label": 12.0, "odds": 2.0, "grad_norm_task": 1.0, "grad_norm_kd": 0.4}


@pytest.mark.parametrize(
    ("logged", "reason"),
    [
        (SURE | {"grad_norm_kd": 0.001}, "the KD gradient is only 0.001 times the task gradient"),
        (
            SURE | {"evidence_teacher": 0.1, "evidence_label": 0.2, "odds": 0.98},
            "hardly ever disagrees with the label with confidence",
        ),
    ],
    ids=["tiny gradient", "no votes"],
)
def test_a_teacher_without_information_is_named_where_lambda_is_at_its_maximum(logged, reason):
    text = explain_lambda([entry(step, 10.0, **CEILING, **logged) for step in (1, 2)])
    assert "this is normal" not in text
    assert "check the teacher" in text
    assert reason in text


def test_a_limit_is_stated_without_advice_where_the_teacher_is_informative():
    text = explain_lambda([entry(step, 10.0, **CEILING, **SURE) for step in (1, 2)])
    assert (
        "λ was most often at lambda_max: this is normal if the teacher looks much more reliable than the labels"
        in text
    )
    assert "raise" not in text
    assert "check the teacher" not in text
