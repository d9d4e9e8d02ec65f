"""Requests of intermediate outputs."""

import pytest
from helpers.tiny import tiny_bert
from torch import nn

from hf_kd_lambda.models.intermediate_outputs import check_takes_flags


class LogitsAlone(nn.Module):
    """Its `forward` has no argument that requests more."""

    def forward(self, input_ids):
        raise AssertionError("it must not be called")


def test_a_forward_that_takes_no_request_is_refused():
    with pytest.raises(ValueError, match="the teacher, a LogitsAlone, returns no hidden_states: use losses on logits"):
        check_takes_flags(LogitsAlone(), {"hidden_states"}, "teacher")
    check_takes_flags(LogitsAlone(), {"query_vectors"}, "teacher")
    check_takes_flags(tiny_bert(), {"hidden_states", "attentions"}, "teacher")
