"""λ's state before the first step."""

import math

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import config

from hf_kd_lambda.balancing.number_trust import Unit
from hf_kd_lambda.trainer.build_lambda import label_unit


def labels_of(rows):
    return {"labels": torch.tensor([math.nan if row["labels"] is None else row["labels"] for row in rows])}


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), -100.0])
def test_the_unit_of_numbers_is_that_of_the_known_ones(tmp_path, missing):
    data = Dataset.from_dict({"labels": [missing, 1.0, 3.0, missing, 2.0, missing]})
    assert label_unit(config(tmp_path, lambda_rule="trust"), 1, data, labels_of) == Unit(2.0, 1.4826)
