import re
import warnings

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import EvalPrediction

from hf_kd_lambda.data.loading import GLUE_TASKS
from hf_kd_lambda.reports.agreement import teacher_agreement
from hf_kd_lambda.tasks.metrics.entities import entities, entity_scores, marks_entities, token_metrics_for
from hf_kd_lambda.tasks.metrics.glue import GlueMetric, compute_metrics_for

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


def test_agreement_is_the_share_of_equal_classes():
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 4.0], [0.0, 9.0]], requires_grad=True)
    teacher = torch.tensor([[9.0, 1.0], [0.1, 0.2], [0.0, 1.0], [0.0, 1.0]], dtype=torch.bfloat16)
    assert teacher_agreement(student, teacher) == 0.75


def test_agreement_of_regressions_is_a_correlation():
    teacher = torch.tensor([[1.0], [2.0], [4.0]])
    assert teacher_agreement(3 - 2 * teacher, teacher) == pytest.approx(-1.0)
    assert teacher_agreement(torch.ones(3, 1), teacher) == 0.0


# --- tokens

SENTENCE = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (SENTENCE, {("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 6)}),
        (["O", "O"], set()),
        ([], set()),
        (["I-PER", "I-PER", "O", "I-LOC"], {("PER", 0, 2), ("LOC", 3, 4)}),
        (["B-PER", "I-LOC", "I-LOC"], {("PER", 0, 1), ("LOC", 1, 3)}),
        (["B", "I", "O", "B"], {("", 0, 2), ("", 3, 4)}),
        (["B-WORK-OF-ART", "I-WORK-OF-ART"], {("WORK-OF-ART", 0, 2)}),
    ],
)
def test_entities_by_hand(labels, expected):
    assert entities(labels) == expected


@given(st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), max_size=12))
def test_entities_are_the_longest_runs_that_nothing_interrupts(labels):
    """A text with a letter a word: b and i of persons, B and I of locations."""
    letters = {"O": ".", "B-PER": "b", "I-PER": "i", "B-LOC": "B", "I-LOC": "I"}
    found = re.finditer("[bi]i*|[BI]I*", "".join(letters[label] for label in labels))
    assert entities(labels) == {
        ({"b": "PER", "i": "PER"}.get(match[0][0], "LOC"), match.start(), match.end()) for match in found
    }


def test_scores_of_entities_by_hand():
    true = [SENTENCE, ["B-PER", "O"]]
    found = [["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-LOC"], ["B-LOC", "B-PER"]]  # one right of 4, of 4 there are
    assert entity_scores(found, true) == pytest.approx({"precision": 1 / 4, "recall": 1 / 4, "f1": 1 / 4})
    missed = entity_scores([["O"] * 6, ["B-PER", "O"]], true)
    assert missed == pytest.approx({"precision": 1, "recall": 1 / 4, "f1": 0.4})
    assert entity_scores([["O"]], [["O"]]) == {"precision": 0, "recall": 0, "f1": 0}
    assert entity_scores(true, true)["f1"] == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["B", "I", "O"], True),
        (["NOUN", "VERB"], False),
        (["O", "B-PER", "E-PER", "S-PER"], False),
        (["B-PER", "I-PER"], False),
        (["O", "Bad", "I"], False),
    ],
)
def test_labels_in_bio_are_recognised(names, expected):
    assert marks_entities(names) is expected


def tokens(predicted, labels, classes=3):
    return EvalPrediction(np.eye(classes)[np.array(predicted)], np.array(labels))


def test_tokens_without_a_label_do_not_count():
    labels = [[-100, 1, -100, 2, 0, -100], [-100, 0, 1, -100, -100, -100]]
    right = [[0, 1, 1, 2, 0, 1], [2, 0, 1, 2, 2, 2]]
    metrics = token_metrics_for(["O", "B-PER", "I-PER"])
    assert metrics(tokens(right, labels)) == dict.fromkeys(["accuracy", "precision", "recall", "f1", "score"], 1.0)
    wrong = [[0, 1, 1, 0, 0, 1], [2, 0, 1, 2, 2, 2]]  # the first entity ends too early
    expected = {"accuracy": 4 / 5, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "score": 1 / 2}
    assert metrics(tokens(wrong, labels)) == pytest.approx(expected)


def test_tokens_of_other_labels_are_scored_as_examples_are():
    labels, predicted = [[-100, 1, 0, 1], [-100, 1, 0, -100]], [[0, 1, 0, 0], [0, 1, 1, 0]]
    expected = GlueMetric("classification").compute(predictions=PREDICTIONS, references=LABELS)
    assert token_metrics_for(["NOUN", "VERB"])(tokens(predicted, labels, classes=2)) == pytest.approx(expected)
    outputs = EvalPrediction((np.eye(2)[np.array(predicted)], np.zeros(3)), np.array(labels))
    assert token_metrics_for(["NOUN", "VERB"])(outputs) == pytest.approx(expected)
