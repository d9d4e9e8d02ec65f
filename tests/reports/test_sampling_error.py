"""Standard errors of scores."""

import numpy as np
import pytest

from hf_kd_lambda.reports.sampling_error import standard_error


def accuracy(evaluation):
    return {"score": float((evaluation.predictions.argmax(-1) == evaluation.label_ids).mean())}


def test_of_an_accuracy_it_is_the_binomials():
    rng = np.random.default_rng(1)
    labels = np.zeros(400, dtype=int)
    predictions = np.eye(2)[(rng.random(400) < 0.2).astype(int)]
    share = accuracy(type("E", (), {"predictions": predictions, "label_ids": labels}))["score"]
    expected = np.sqrt(share * (1 - share) / 400)
    assert standard_error(accuracy, predictions, labels) == pytest.approx(expected, rel=0.15)
    assert standard_error(accuracy, (predictions, None), labels) == standard_error(accuracy, predictions, labels)


def test_there_is_none_for_tokens_or_one_example():
    assert standard_error(accuracy, np.zeros((2, 3, 2)), np.zeros((2, 3), dtype=int)) is None
    assert standard_error(accuracy, np.zeros((1, 2)), np.zeros(1, dtype=int)) is None
    assert standard_error(accuracy, np.zeros((3, 2)), (np.zeros(3), np.zeros(3))) is None
