"""Classes that weigh differently in the task loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from hf_kd_lambda.losses.class_weights import WeightedTaskLoss, balanced_weights, item_weights
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.losses.objective import Objective

LABELS = [0, 0, 0, 1, 2, 2, 0, 0]


def test_balanced_weights_are_scikit_learns():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    torch.testing.assert_close(balanced_weights(LABELS, 3), torch.tensor(expected).float())


def test_labels_of_tokens_and_missing_ones():
    rows = [[0, -100, 0], [1, -100], [-100]]
    torch.testing.assert_close(balanced_weights([*rows, None], 3), torch.tensor([0.75, 1.5, 1.0]))


def test_both_losses_weigh_the_items_alike():
    logits, labels = torch.randn(8, 3), torch.tensor(LABELS)
    labels[3] = -100
    weights = balanced_weights(LABELS, 3)
    expected = F.cross_entropy(logits, labels, weights, reduction="sum") / 7
    outputs = {"logits": logits}
    torch.testing.assert_close(WeightedTaskLoss(weights)(outputs, labels), expected)
    objective = Objective({}, 1.0, class_weights=weights)
    batch = {"labels": labels}
    found = objective._task_loss(outputs, batch, item_labels(labels), 7, None)
    torch.testing.assert_close(found, expected)


def test_classes_weigh_in_addition_to_other_weights():
    found = item_weights(torch.tensor([2.0, 3.0]), torch.tensor([1, 0, -100]), torch.tensor([0.5, 0.25, 1.0]))
    assert found[:2].tolist() == [1.5, 0.5]


def test_items_without_a_label_are_not_counted():
    assert balanced_weights([[0, -100], [-101, 1], None, -100], 2).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("labels", [[[0.2, 0.8]], ["good", "bad"], [1, 2], [0, -1]])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(
        ValueError, match=r"class_weights counts labels from 0 to 1, but one is .*: give the classes as"
    ):
        balanced_weights(labels, 2)
