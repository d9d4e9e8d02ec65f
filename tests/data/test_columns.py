"""Which columns reach which model."""

import pytest
from helpers.tiny import tiny_bert

from hf_kd_lambda.data.columns import forward_parameters, own_inputs, teacher_inputs


def test_labels_are_no_input_of_a_model():
    inputs = forward_parameters(tiny_bert(layers=1))
    assert {"input_ids", "attention_mask", "token_type_ids"} <= inputs
    assert "labels" not in inputs


def test_outputs_of_the_teacher_are_not_its_inputs():
    outputs = ["teacher_logits", "teacher_outputs"]
    columns = ["input_ids", "teacher_input_ids", *outputs, "teacher_attention_mask", "labels"]
    assert own_inputs(columns, {"input_ids", "attention_mask"}) == ["teacher_input_ids", "teacher_attention_mask"]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"input_ids": 1, "token_type_ids": 2, "labels": 3, "idx": 4}, {"input_ids": 1, "token_type_ids": 2}),
        ({"input_ids": 1, "token_type_ids": 2, "teacher_input_ids": 5}, {"input_ids": 5}),
        ({"input_ids": 1, "teacher_logits": 6}, {"input_ids": 1}),
    ],
    ids=["shared", "own", "shared, with logits"],
)
def test_a_teachers_own_inputs_replace_all_of_the_students(batch, expected):
    assert teacher_inputs(batch, {"input_ids", "token_type_ids"}) == expected
