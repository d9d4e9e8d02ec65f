"""Scores of each class."""

import numpy as np
import pytest

from hf_kd_lambda.reports.class_scores import MOST_CLASSES, class_rows, class_scores


def test_each_class_has_its_scores():
    scores = class_scores(np.eye(3)[[0, 1, 1, 1]], np.array([0, 0, 1, 1]), ["a", "b", "c"])
    assert class_rows(scores) == [
        ["class", "precision (%)", "recall (%)", "f1 (%)", "examples"],
        ["a", "100.0", "50.0", "66.7", "2"],
        ["b", "66.7", "100.0", "80.0", "2"],
        ["c", "0.0", "0.0", "0.0", "0"],
    ]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([0.5]), None),
        (np.array([[0, 1]]), ["a", "b"]),
        ((np.array([0]), np.array([0])), ["a"]),
        (np.array([0]), [str(index) for index in range(MOST_CLASSES + 1)]),
    ],
)
def test_other_labels_have_no_classes(labels, names):
    assert class_scores(np.zeros((1, 2)), labels, names) == []
