"""Metrics of GLUE and of data of one's own."""

import warnings

import evaluate
import numpy as np
import pytest
from transformers import EvalPrediction

from hf_kd_lambda.data.texts import GLUE_TASKS
from hf_kd_lambda.tasks.metrics.glue import GlueMetric, compute_metrics_for, score_of_one_class

LABELS = [1, 1, 1, 0, 0]
PREDICTIONS = [1, 1, 0, 1, 0]  # two true positives, one true negative, one false positive, one false negative


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("cola", {"matthews_correlation": 1 / 6}),
        ("sst2", {"accuracy": 0.6}),
        ("mrpc", {"accuracy": 0.6, "f1": 2 / 3}),
        ("qqp", {"accuracy": 0.6, "f1": 2 / 3}),
        ("classification", {"accuracy": 0.6, "f1_macro": (2 / 3 + 1 / 2) / 2}),
    ],
)
def test_classification_metrics_by_hand(task, expected):
    scores = GlueMetric(task).compute(predictions=PREDICTIONS, references=LABELS)
    assert scores == pytest.approx(expected | {"score": sum(expected.values()) / len(expected)})


@pytest.mark.parametrize("task", ["stsb", "regression"])
def test_regression_metrics_by_hand(task):
    scores = GlueMetric(task).compute(predictions=[1.0, 2.0, 3.0, 10.5], references=[1.0, 2.0, 3.0, 4.0])
    pearson = np.corrcoef([1.0, 2.0, 3.0, 10.5], [1.0, 2.0, 3.0, 4.0])[0, 1]
    assert scores == pytest.approx({"pearson": pearson, "spearmanr": 1.0, "score": (pearson + 1) / 2})


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_constant_predictions_give_a_finite_score_without_a_warning(task):
    labels = [0.5, 1.5, 4.0] if GLUE_TASKS[task].label_names is None else [0, 1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = GlueMetric(task).compute(predictions=[0, 0, 0], references=labels)
    expected = {"cola": 0.0, "stsb": 0.0, "mrpc": 1 / 6, "qqp": 1 / 6}
    assert scores["score"] == pytest.approx(expected.get(task, 1 / 3))


@pytest.mark.parametrize(
    ("task", "expected"),
    [(None, (0.9 + (18 / 19) / 2) / 2), ("sst2", 0.9), ("mrpc", (0.9 + 18 / 19) / 2)],
)
def test_without_knowledge_the_score_is_that_of_the_most_frequent_class(task, expected):
    assert score_of_one_class([1] * 9 + [0, -1], task) == pytest.approx(expected)


def test_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"task='squad'.*cola, sst2"):
        GlueMetric("squad")


def test_two_computations_do_not_share_their_predictions():
    first, second = GlueMetric("sst2"), GlueMetric("sst2")
    first.add_batch(predictions=[1, 1], references=[0, 0])
    assert second.compute(predictions=[1], references=[1])["accuracy"] == 1.0
    assert first.compute()["accuracy"] == 0.0
    assert first.compute(predictions=[0], references=[0])["accuracy"] == 1.0


def test_no_file_is_shared_with_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path)
    metric = GlueMetric("sst2")
    metric.add_batch(predictions=[1, 0], references=[1, 1])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert metric.compute()["accuracy"] == 0.5


@pytest.mark.parametrize("as_tuple", [False, True])
def test_trainer_outputs_are_turned_into_classes(as_tuple):
    logits = np.array([[2.0, -1.0, 0.0], [0.0, 0.1, 0.2], [0.0, 3.0, 1.0]])
    outputs = (logits, np.zeros((3, 4))) if as_tuple else logits
    scores = compute_metrics_for("mnli", is_regression=False)(EvalPrediction(outputs, np.array([0, 2, 2])))
    assert scores == pytest.approx({"accuracy": 2 / 3, "score": 2 / 3})


def test_own_data_has_general_metrics():
    logits, labels = np.eye(3), np.arange(3)
    classes = compute_metrics_for(None, is_regression=False)(EvalPrediction(logits, labels))
    assert classes == {"accuracy": 1.0, "f1_macro": 1.0, "score": 1.0}
    numbers = np.array([[0.1], [0.2], [0.4]], dtype=np.float32)
    regression = compute_metrics_for(None, is_regression=True)(EvalPrediction(numbers, -numbers[:, 0]))
    assert regression == pytest.approx({"pearson": -1.0, "spearmanr": -1.0, "score": -1.0})
