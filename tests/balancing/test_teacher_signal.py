"""How much information the teacher's outputs contain."""

import math

import pytest
import torch

from hf_kd_lambda.balancing import teacher_signal
from hf_kd_lambda.balancing.teacher_signal import TeacherSignal, count_signal
from hf_kd_lambda.losses.base import TeacherBatch, TopLogits
from hf_kd_lambda.losses.functional import chunked
from hf_kd_lambda.losses.functional.distributions import squared_distance_from_uniform

CLASSES, LENGTH = 32, 8


def test_items_alone_are_counted():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 9.0]])
    torch.testing.assert_close(count_signal(TeacherBatch(logits), torch.tensor([1, -100])), torch.tensor([0.25, 1]))


def test_the_factor_is_ten_times_the_mean_distance_and_at_most_1():
    signal = TeacherSignal()
    assert signal.factor == 1, "nothing is known"
    signal.update(torch.tensor([0.05, 1]))
    assert signal.factor.item() == pytest.approx(0.5)
    signal.update(torch.tensor([math.nan, 1]))
    assert signal.factor.item() == pytest.approx(0.5)
    signal.update(torch.tensor([0.45, 1]))
    assert signal.factor == 1


def test_probabilities_over_a_vocabulary_exist_for_one_chunk_at_a_time(monkeypatch):
    torch.manual_seed(0)
    top = torch.randn(2, LENGTH, CLASSES).log_softmax(-1).topk(4)
    teacher = TeacherBatch(None, TopLogits(top.values, top.indices, CLASSES, 1.0))
    labels = torch.zeros(2, LENGTH, dtype=torch.long)
    whole = count_signal(teacher, labels)
    shapes = []

    def counting(logits):
        shapes.append(tuple(logits.shape))
        return squared_distance_from_uniform(logits)

    monkeypatch.setattr(chunked, "CHUNK_LOGITS", 3 * CLASSES)
    monkeypatch.setattr(teacher_signal, "squared_distance_from_uniform", counting)
    torch.testing.assert_close(count_signal(teacher, labels), whole)
    assert shapes == [(3, CLASSES)] * 5 + [(1, CLASSES)]
