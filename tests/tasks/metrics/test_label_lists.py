"""F1 of several labels as scikit-learn has it, and the loss of a plain Trainer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import DatasetDict
from sklearn.metrics import f1_score
from transformers import EvalPrediction

from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.tasks import TASKS
from hf_kd_lambda.tasks.metrics.label_lists import label_list_loss, multi_label_metrics, soft_label_metrics


def random_case():
    generator = np.random.default_rng(0)
    return generator.normal(size=(50, 4)), generator.integers(0, 2, (50, 4))


def test_f1_is_scikit_learns():
    logits, labels = random_case()
    found = multi_label_metrics(EvalPrediction(logits, labels))
    expected = {name: f1_score(labels, logits > 0, average=name) for name in ("micro", "macro")}
    assert found["f1_micro"] == pytest.approx(expected["micro"])
    assert found["f1_macro"] == pytest.approx(expected["macro"])
    assert found["score"] == pytest.approx(sum(expected.values()) / 2)


def test_missing_labels_do_not_count():
    logits, labels = random_case()
    labels[::2, 1] = -100
    found = multi_label_metrics(EvalPrediction(logits, labels))
    of_each = [f1_score(labels[:, i][known], (logits[:, i] > 0)[known]) for i, known in enumerate((labels >= 0).T)]
    assert found["f1_macro"] == pytest.approx(np.mean(of_each))


def test_soft_labels_are_scored_by_their_largest_share():
    shares = np.array([[0.6, 0.4], [0.1, 0.9], [0.5001, 0.4999]])
    assert soft_label_metrics(EvalPrediction(np.array([[1.0, 0], [0, 1], [0, 1]]), shares))["accuracy"] == 2 / 3


def test_the_loss_of_a_plain_trainer():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 0, -100]] * 6)
    known = labels >= 0
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known].float())
    for items in (None, 12):
        torch.testing.assert_close(label_list_loss({"logits": logits}, labels, items), expected)
    shares = torch.tensor([[0.2, 0.3, 0.5]] * 6)
    for items in (None, 18):  # as the Trainer counts them
        torch.testing.assert_close(label_list_loss({"logits": logits}, shares, items), F.cross_entropy(logits, shares))


def test_soft_labels_are_smoothed_and_several_labels_are_not():
    logits, shares = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[0.2, 0.3, 0.5]] * 6)
    of_shares, of_sets = (
        TASKS["text-classification"].task_loss(TaskData(DatasetDict(), ["a", "b", "c"], None, problem_type), 0.2)
        for problem_type in ("soft_labels", "multi_label_classification")
    )
    expected = F.cross_entropy(logits, shares, label_smoothing=0.2)
    torch.testing.assert_close(of_shares({"logits": logits}, shares), expected)
    assert of_sets is label_list_loss
