"""Variants of trust: what takes the place of the student's prediction."""

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import config, examples, make_trainer
from helpers.tiny import tiny_bert

from benchmarks.trust_variants import JUDGES, PREDICTIONS, PRESENT, in_place_of_trust
from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.losses.functional.labels import item_labels

PASSES = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[3.0, 1.0]]])  # of one example
TEACHER, ITEMS = torch.tensor([[0.5, -0.5]]), item_labels(torch.tensor([1]))


@pytest.mark.parametrize("name", JUDGES | PREDICTIONS)
def test_a_trainer_judges_by_the_variant(name, tmp_path):
    data = examples(64)
    with in_place_of_trust(name, data):
        trainer = make_trainer(config(tmp_path, lambda_rule="trust"), tiny_bert(layers=1), tiny_bert(layers=1), data)
        trainer.train()
    assert type(trainer.lambda_state.trust) is JUDGES.get(name, ClassReliabilities)
    if name in PREDICTIONS:
        assert type(trainer.balancer.past) is PREDICTIONS[name]


@pytest.mark.parametrize(("name", "used"), [(PRESENT, [0, 1, 2]), ("first pass", [0, 0, 0])])
def test_the_prediction_of_each_pass(name, used):
    predictions = PREDICTIONS[name](Dataset.from_dict({}), 1, 2, torch.device("cpu"))
    for logits, expected in zip(PASSES, used, strict=True):
        found = predictions.mean(torch.tensor([0]), logits).softmax(-1)
        torch.testing.assert_close(found, PASSES[expected].softmax(-1))
        predictions.end_pass(lambda sums: sums)


def test_plain_losses_have_no_weights_in_steps_that_measure():
    variant = JUDGES["plain losses"](2)
    for step in range(9):
        trusts, counts = variant.judge(PASSES[0], [TEACHER], ITEMS)
        assert (variant.weights(*trusts).task is None) == (step % 8 == 0)
        variant.update(counts)


@pytest.mark.parametrize("name", ["without the factor", PRESENT])
def test_without_the_factor_only_the_ratio_of_the_reliabilities_counts(name):
    variant = JUDGES[name](2)
    variant.sums[:4] = 1e9 * torch.tensor([0.5, 1.0, 0.9, 1.0])
    assert variant.ratio.item() == pytest.approx(1.8)


def test_the_true_temperature_undoes_the_overconfidence():
    variant = JUDGES["true temperature"](2)
    (overconfident,), _ = variant.judge(PASSES[0], [4 * TEACHER], ITEMS)
    (calibrated,), _ = JUDGES["plain losses"](2).judge(PASSES[0], [TEACHER], ITEMS)
    torch.testing.assert_close(overconfident, calibrated)
