"""λ's state before the first step."""

import pytest
from datasets import Dataset
from helpers.small_runs import config

from hf_kd_lambda.balancing.number_trust import Unit
from hf_kd_lambda.trainer.build_lambda import label_unit


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), -100.0])
def test_the_unit_of_numbers_is_that_of_the_known_ones(tmp_path, missing):
    data = Dataset.from_dict({"labels": [missing, 1.0, 3.0, missing, 2.0, missing]})
    assert label_unit(config(tmp_path, lambda_rule="trust"), 1, data) == Unit(2.0, 1.4826)
