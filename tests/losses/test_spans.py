"""Starts and ends of answers as items, whose classes are the positions."""

import math

import pytest
import torch

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.spans import logits_of_items, span_labels

LOGITS = torch.tensor([[[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]])  # of one example, three tokens


def test_classes_are_the_positions_that_the_mask_keeps():
    items = logits_of_items(LOGITS, {"answer_mask": torch.tensor([[1, 0, 1]])})
    assert items.tolist() == [[[1, -math.inf, 3], [5, -math.inf, 7]]]


def test_without_a_mask_logits_stay():
    assert logits_of_items(LOGITS, {"attention_mask": torch.ones(1, 3)}) is LOGITS


def test_the_teachers_logits_are_those_of_the_same_items():
    batch = {"answer_mask": torch.tensor([[0, 1, 1]])}
    assert torch.equal(TeacherBatch(LOGITS).of_items(batch).logits, logits_of_items(LOGITS, batch))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"start_positions": [0, 1], "end_positions": [2, 2]}, [[0, 2], [1, 2]]),
        ({"start_positions": [-100, 1], "end_positions": [2, 3]}, [[-101, 2], [1, -101]]),  # three tokens: 0 to 2
        ({"start_positions": [0, 1]}, [[-101, -101]] * 2),
        ({}, [[-101, -101]] * 2),
    ],
)
def test_labels_that_no_token_has_are_none(given, expected):
    batch = {name: torch.tensor(values) for name, values in given.items()} | {"input_ids": torch.ones(2, 3).long()}
    assert span_labels(batch).tolist() == expected
