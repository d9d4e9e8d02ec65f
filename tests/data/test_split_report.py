"""The line that describes a split."""

import pytest
from datasets import Dataset

from hf_kd_lambda.data.split_report import describe_split, report_splits


@pytest.mark.parametrize(
    ("columns", "names", "cut", "line"),
    [
        (
            {"text": ["a", " ", ""], "label": [0, 1, 0]},
            ["neg", "pos"],
            0,
            "s: 3 examples (neg 2, pos 1), 2 empty texts",
        ),
        ({"text": ["a"], "label": [1]}, ["neg", "pos"], 4, "s: 1 example (neg 0, pos 1), 4 truncated to 8 tokens"),
        ({"text": ["a"], "text_pair": [""], "label": [0.5]}, None, 0, "s: 1 example, 1 empty text"),
        ({"words": [["a", "b"]], "label": [[0, 1]]}, ["O", "B"], 0, "s: 1 example (O 1, B 1)"),
        ({"label": [0, 0, 1]}, [str(i) for i in range(99)], 0, "s: 3 examples (99 classes of 0 to 2)"),
        (
            {"label": [[0.5, 0.5, 0], [0.4, 0.3, 0.3], [0, 0, 1.0], None]},
            [*"abc"],
            0,
            "s: 4 examples (a 1, b 0, c 1, 1 tied), 1 without a label",
        ),
        ({"label": [[1, 1], [0, 1], [0, -100]]}, [*"ab"], 0, "s: 3 examples (a 1, b 2)"),
        ({"label": [None]}, [str(i) for i in range(99)], 0, "s: 1 example (99 classes of 0 to 0), 1 without a label"),
    ],
)
def test_a_split_is_described_in_a_line(columns, names, cut, line):
    assert describe_split("s", Dataset.from_dict(columns), names, cut, 8) == line


@pytest.mark.parametrize(
    ("train", "validation", "shared"),
    [
        (
            {"text": ["a", "b", ""]},
            {"text": ["b", "c", "b", ""]},
            ", 1 empty text, 2 also in train, so that scores are too high",
        ),
        (
            {"text": ["a", "b"], "text_pair": ["c", "d"]},
            {"text": ["a", "a"], "text_pair": ["c", "d"]},
            ", 1 also in train, so that scores are too high",
        ),
        ({"words": [["a", "b"], ["c"]]}, {"words": [["c"], ["a"]]}, ", 1 also in train, so that scores are too high"),
        ({"text": ["a"]}, {"text": ["b", "c"]}, ""),
    ],
)
def test_examples_that_are_also_trained_on_are_counted(train, validation, shared, caplog):
    splits = {"train": Dataset.from_dict(train), "validation": Dataset.from_dict(validation)}
    report_splits(splits, None)
    count = len(next(iter(validation.values())))
    assert caplog.messages[1] == f"validation: {count} examples{shared}"
    assert "in train" not in caplog.messages[0]
