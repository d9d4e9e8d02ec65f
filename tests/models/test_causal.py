"""Which models predict the next token."""

from helpers.tiny import tiny_bert
from helpers.tiny_lm import (
    tiny_lm,
)

from hf_kd_lambda.models.causal import is_causal


def test_only_causal_models_are_causal():
    assert is_causal(tiny_lm())
    assert is_causal(tiny_lm("gpt2"))
    assert not is_causal(tiny_bert())
