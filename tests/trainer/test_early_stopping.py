"""Training that ends when the student no longer improves."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from helpers.small_runs import config, examples, flat, make_trainer, models

from hf_kd_lambda import DistillationConfig
from hf_kd_lambda.jobs.resuming import train_on
from hf_kd_lambda.trainer.early_stopping import evaluations_since_best, has_stopped


@pytest.mark.parametrize(
    ("values", "greater", "expected"),
    [
        ([], True, 0),
        ([0.5], True, 0),
        ([0.5, 0.6], True, 0),
        ([0.6, 0.5], True, 1),
        ([0.6, 0.6, 0.6], True, 2),
        ([0.6, 0.5, 0.4], False, 0),
        ([0.4, 0.5, 0.6], False, 2),
        ([math.nan, 0.5, 0.4], False, 0),
        ([math.nan, 0.4, 0.5, math.nan], True, 1),
        ([math.nan, math.nan], True, 1),
    ],
)
def test_evaluations_since_the_best_one(values, greater, expected):
    assert evaluations_since_best(values, greater) == expected


def test_patience_counts_evaluations_of_the_metric():
    args = SimpleNamespace(early_stopping_patience=2, metric_for_best_model="score", greater_is_better=True)
    scores = [{"eval_score": 0.7}, {"loss": 1.0}, {"eval_score": 0.6}, {"eval_score": 0.7}]
    logs = [{**entry, "step": step} for step, entry in enumerate(scores)]
    assert not has_stopped(args, logs[:3])
    assert has_stopped(args, logs)
    assert not has_stopped(SimpleNamespace(early_stopping_patience=None), scores)


def test_an_evaluation_that_is_repeated_counts_once():
    args = SimpleNamespace(early_stopping_patience=1, metric_for_best_model="score", greater_is_better=True)
    logs = [{"eval_score": score, "step": step} for step, score in ((2, 0.6), (4, 0.7), (4, 0.7))]
    assert not has_stopped(args, logs)
    assert has_stopped(args, [*logs, {"eval_score": 0.7, "step": 6}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"early_stopping_patience": 0}, "early_stopping_patience=0 must be at least 1"),
        ({"early_stopping_patience": 3}, "early_stopping_patience=3 needs load_best_model_at_end: set it to True"),
    ],
)
def test_patience_that_cannot_work_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(str(tmp_path), **settings)


def test_a_run_whose_metric_falls_stops_and_does_not_train_on_when_it_is_repeated(tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    scores, trained = itertools.count(0, -1), []
    for _ in range(2):
        trainer = make_trainer(
            config(tmp_path, early_stopping_patience=1, **best, **steps),
            *models(),
            examples(),
            eval_dataset=examples(8),
            compute_metrics=lambda prediction: {"score": next(scores)},
        )
        train_on(trainer)
        assert trainer.state.global_step == 4
        trained.append(flat(trainer.model))
    assert next(scores) == -2, "the repetition evaluates nothing"
    assert torch.equal(*trained)
