"""Models that no memory holds are refused by their configuration."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers.tiny_lm import tiny_lm
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_kd_lambda.models import size
from hf_kd_lambda.models.from_scratch import model_from_scratch
from hf_kd_lambda.models.size import check_size
from hf_kd_lambda.tasks.causal_lm import CausalLM


def bert(**fields):
    return AutoConfig.for_model("bert", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"intermediate_size": 10**10}, r"^its weights need 737,\d\d\d GB, but this machine has \d+ GB of memory"),
        ({"vocab_size": 10**9}, r"^its weights need 3,\d\d\d GB"),
        ({"hidden_size": 12 * 10**10}, r"^the sizes in its configuration are impossible \(.*\): reduce them"),
        ({"intermediate_size": -5}, r"^the sizes in its configuration are impossible"),
        ({"num_hidden_layers": 10**9}, r"^num_hidden_layers=1000000000 is more than 2000"),
    ],
)
def test_impossible_sizes_are_refused_at_once(fields, message):
    with pytest.raises(ValueError, match=message):
        check_size(bert(**fields), AutoModelForSequenceClassification)


def test_the_size_is_that_of_the_weights(monkeypatch):
    config = bert(vocab_size=100, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1)
    model = AutoModelForSequenceClassification.from_config(config)
    exact = 4 * sum(weight.numel() for weight in model.parameters())
    monkeypatch.setattr(size, "memory", lambda: exact)
    check_size(config, AutoModelForSequenceClassification)
    monkeypatch.setattr(size, "memory", lambda: exact - 1)
    with pytest.raises(ValueError, match="its weights need"):
        check_size(config, AutoModelForSequenceClassification)


def test_an_architecture_is_named_by_its_setting():
    architecture = {"model_type": "bert", "hidden_size": 12_000_000, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match=r"^student_architecture=.*: its weights need [\d,]+ GB"):
        model_from_scratch("student_architecture", architecture, ["a", "b"], AutoModelForSequenceClassification)


def test_a_language_model_of_endless_layers_is_refused(tmp_path):
    tiny_lm().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 10**9}))
    with pytest.raises(OSError, match="num_hidden_layers=1000000000 is more than 2000"):
        CausalLM().load_model(str(tmp_path), cast(Any, SimpleNamespace()))
