"""The table of log keys against what training writes."""

import re
from types import SimpleNamespace

import pytest
import torch

from hf_kd_lambda.balancing.rules.registry import RULES
from hf_kd_lambda.balancing.state import LambdaState, Measurement
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.trainer.log_buffers import EvaluationRecord, StepRecord
from hf_kd_lambda.utils.log_keys import EVALUATION_KEYS, LIMIT_KEYS, LIMITS, LOG_KEYS

LOSSES = ["task_loss", "kd_loss", "kd_loss/soft_targets", "kd_loss/hidden_mse"]


def general(key):
    return re.sub(r"_\d+$", "_<m>", re.sub("/.*", "/<name>", key))


def written(rule):
    """The keys that a step of a run with two layers, two KD losses and two teachers logs."""
    state = LambdaState(rule, 0.9, (0.1, 10.0), 0.5, num_groups=2, teacher_weights=[0.5, 0.5])
    if state.trust is not None:
        state.trust.sums += 1  # items with a label
    gram = Gram(*(torch.tensor(entries) for entries in ([1.0, 2.0], [1.0, 1.0], [0.5, 0.1])))
    state.update(Measurement(gram, torch.tensor([1.0, 1.0]), norms=torch.full((2, 2), 3.0)))
    balancer = SimpleNamespace(state=state, names=["layer.0", "head"])
    record = StepRecord(LOSSES, balancer, with_noise=True, device=torch.device("cpu"))
    record.add(torch.ones(4), ends_step=True)
    record.gram = Gram(*(entry.sum() for entry in gram))
    weights = torch.tensor(0.5), torch.tensor(0.5)
    return record.take(weights, average=lambda losses: losses)


def test_every_key_that_training_logs_is_described_and_no_other():
    keys = {general(key) for rule in RULES.values() if rule.measures for key in written(rule())}
    assert keys == LOG_KEYS.keys()


def test_every_key_that_an_evaluation_adds_is_described():
    record = EvaluationRecord(LOSSES)
    logits, labels = torch.eye(3), torch.arange(3)
    record.add(logits, logits, labels, torch.ones(4), torch.full((2,), 3), gather=lambda rows: rows)
    assert {general(key) for key in record.metrics()} == EVALUATION_KEYS.keys()


@pytest.mark.parametrize("table", [LOG_KEYS, EVALUATION_KEYS], ids=["training", "evaluation"])
def test_descriptions_are_one_line_each(table):
    assert len(set(table.values())) == len(table)
    assert all(text and "\n" not in text and "|" not in text for text in table.values())


def test_names_and_order_of_the_limits_are_those_of_checkpoints():
    assert list(LIMITS) == ["free", "clipped", "slowed", "floor", "ceiling", "held", "skipped"]
    assert LIMIT_KEYS == (
        "lambda_free",
        "lambda_clipped",
        "lambda_slowed",
        "lambda_floor",
        "lambda_ceiling",
        "lambda_held",
        "lambda_skipped_share",
    )
