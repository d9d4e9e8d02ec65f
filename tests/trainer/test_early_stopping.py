"""Training that ends when the student no longer improves."""

import math
from types import SimpleNamespace

import pytest

from hf_kd_lambda import DistillationConfig
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
    assert not has_stopped(args, scores[:3])
    assert has_stopped(args, scores)
    assert not has_stopped(SimpleNamespace(early_stopping_patience=None), scores)


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
