"""Trust that knows what is right: which labels and outputs that is, and what the items weigh."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.small_runs import config, examples, make_trainer
from helpers.tiny import tiny_bert

from benchmarks.known_truth import Truth, in_place_of_trust, truth_of
from hf_kd_lambda.data.columns import TEACHER_LOGITS
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import item_labels


def supervised(labels: list, logits: np.ndarray) -> Dataset:
    return Dataset.from_dict({"labels": labels, TEACHER_LOGITS: logits.astype("float32").tolist()})


@pytest.fixture
def outputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 2))


@pytest.fixture
def truth(outputs) -> Truth:
    changed = outputs.copy()
    changed[2] = outputs[2, ::-1]
    return truth_of(supervised([0, 0, 0, 1], changed), supervised([0, 1, 0, 1], outputs))


def test_what_the_regime_changed_is_wrong(truth):
    assert list(truth.of_items.values()) == [(True, True), (False, True), (True, False), (True, True)]
    assert truth.means.tolist() == [0.75, 0.75]


def test_of_numbers_those_that_the_regime_changed_are_wrong():
    numbers = np.array([[0.1], [0.2], [0.3]])
    truth = truth_of(supervised([0.5, 1.5, 2.6], numbers[[0, 2, 1]]), supervised([0.5, 1.6, 2.6], numbers))
    assert list(truth.of_items.values()) == [(True, True), (False, False), (True, False)]


@pytest.mark.parametrize("num_labels", [2, 1])
def test_wrong_items_have_no_weight(num_labels, tmp_path, truth, outputs):
    models = [tiny_bert(layers=1, num_labels=num_labels) for _ in range(2)]
    data = examples(8)
    if num_labels == 1:
        data = data.map(lambda row: {"labels": float(row["labels"])})
    with in_place_of_trust(truth):
        judge = make_trainer(config(tmp_path, lambda_rule="trust"), *models, data).lambda_state.trust
    changed = torch.tensor(outputs, dtype=torch.float32)
    changed[2] = changed[2].flip(0)
    items = item_labels(torch.tensor([0, 0, 0, 1]))
    weights, counts = judge.observe(torch.randn(4, 2), TeacherBatch(changed), items)
    assert weights.task.tolist() == pytest.approx([4 / 3, 0, 4 / 3, 4 / 3])
    assert weights.kd.tolist() == pytest.approx([4 / 3, 4 / 3, 0, 4 / 3])
    assert counts is None
    factor = 2 if num_labels == 2 else 1  # 1/√(1 − β)
    assert judge.rule_inputs["trust_ratio"].item() == pytest.approx(factor)
