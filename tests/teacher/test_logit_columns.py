"""Several columns of logits as one."""

import pytest
from datasets import Dataset

from hf_kd_lambda.teacher.cache_format import cached_members, teacher_weights_in
from hf_kd_lambda.teacher.logit_columns import average_logits


def examples(second):
    return Dataset.from_dict({"input_ids": [[5], [6]], "first": [[0.0, 4.0], [1.0, 1.0]], "second": second})


def test_columns_become_their_weighted_mean():
    averaged = average_logits(examples([[4.0, 0.0], [5.0, 1.0]]), {"first": 3, "second": 1})
    assert averaged.column_names == ["input_ids", "teacher_logits"]
    assert averaged["teacher_logits"][:] == [[1.0, 3.0], [2.0, 1.0]]


def test_columns_are_kept_one_by_one_on_request():
    kept = average_logits(examples([[4.0, 0.0], [5.0, 1.0]]), {"first": 3, "second": 1}, keep_each=True)
    assert kept["teacher_logits"][:] == [[1.0, 3.0], [2.0, 1.0]]
    assert teacher_weights_in(kept) == [0.75, 0.25]
    assert [rows.tolist() for rows in cached_members(kept)] == [[[0.0, 4.0], [1.0, 1.0]], [[4.0, 0.0], [5.0, 1.0]]]


def test_logits_of_tokens_are_averaged_too():
    tokens = Dataset.from_dict({"first": [[[0.0, 2.0]], [[2.0, 2.0], [4.0, 0.0]]]})
    tokens = tokens.add_column("second", [[[2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    averaged = average_logits(tokens, {"first": 1, "second": 1})
    assert averaged["teacher_logits"][:] == [[[1.0, 1.0]], [[1.0, 1.0], [2.0, 0.0]]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"third": 1}, "no column third among input_ids, first, second"),
        ({"first": 1, "second": -1}, "must have a positive finite weight"),
        ({}, "must have a positive finite weight"),
        ({"first": 1, "second": 1}, r"differ in shape: first \[2\], second \[3\]"),
    ],
)
def test_what_cannot_be_averaged_is_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        average_logits(examples([[1.0, 2.0, 3.0]] * 2), columns)
