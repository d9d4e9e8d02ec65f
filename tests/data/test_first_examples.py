"""The first examples of datasets of any kind."""

import pytest
from datasets import Dataset

from hf_kd_lambda.data.first_examples import first_examples


class Numbered:
    """Rows by their number, and a KeyError beyond the last one."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {0: "a", 1: "b", 2: "c"}[index]


@pytest.mark.parametrize(("count", "expected"), [(2, ["a", "b"]), (9, ["a", "b", "c"])])
def test_no_row_beyond_the_last_is_read(count, expected):
    rows = Dataset.from_dict({"row": ["a", "b", "c"]})
    assert first_examples(Numbered(), count) == first_examples(["a", "b", "c"], count) == expected
    for dataset in (rows, rows.to_iterable_dataset()):
        assert [row["row"] for row in first_examples(dataset, count)] == expected
