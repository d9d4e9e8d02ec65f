"""Columns of rows, and how messages name a row."""

import pytest
from datasets import Dataset

from hf_kd_lambda.data.sources import ROW, Column, Source, check_values, is_text, label_names, require_columns

TEXT, LABEL = Column("body", "text", "text_column"), Column("grade", "label", "label_column")


def test_the_column_of_labels():
    assert label_names([TEXT, LABEL, Column("b", "label.1", "label_columns")]) == ["grade", "b"]
    assert label_names([TEXT]) == []


def test_a_value_is_refused_by_its_row_column_and_kind():
    source = Source(Dataset.from_dict({ROW: [2, 5], "text": ["a", None]}), "train_file='a.csv'", "row {}")
    with pytest.raises(ValueError, match=r"^train_file='a.csv', row 5: column 'body' holds None, which is no text\.$"):
        check_values(source, TEXT, is_text, "text")
    check_values(source, TEXT, lambda value: value is None or is_text(value), "text")


def test_a_missing_column_names_its_setting_and_a_header_of_one_field_the_delimiter():
    with pytest.raises(
        ValueError, match=r"the split has no column 'grade', only body, x: set label_column\. Evaluation needs labels"
    ):
        require_columns("the split", [TEXT, LABEL], ["body", "x"])
    both = r"has no column 'body' and no column 'grade', only x, y: set text_column and label_column\.$"
    with pytest.raises(ValueError, match=both):
        require_columns("the split", [TEXT, LABEL], ["x", "y"])
    two_labels = [LABEL, Column("b", "label.1", LABEL.setting)]
    with pytest.raises(
        ValueError, match=r"no column 'grade' and no column 'b', only body: set label_column\. Evaluation"
    ):
        require_columns("the split", two_labels, ["body"])
    with pytest.raises(ValueError, match=r"set text_column\. Or set delimiter"):
        require_columns("the split", [TEXT], ["body;grade"])
