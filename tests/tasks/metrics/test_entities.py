"""Scores of entities and of tokens."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import EvalPrediction

from hf_kd_lambda.tasks.metrics.entities import entities, entity_scores, marks_entities, token_metrics_for
from hf_kd_lambda.tasks.metrics.glue import GlueMetric

LABELS = [1, 1, 1, 0, 0]
PREDICTIONS = [1, 1, 0, 1, 0]  # two true positives, one true negative, one false positive, one false negative


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
