"""Datasets and files with their splits, and what is refused."""

import pytest

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.sources import Column
from hf_kd_lambda.data.splits import load_splits
from hf_kd_lambda.data.texts import load_task_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, content):
    (folder / name).write_text(content)
    return str(folder / name)


def test_a_dataset_whose_path_reads_as_a_pattern_is_refused(tmp_path):
    for name, text in (("own1", "wrong"), ("own[1]", "right")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "train.csv", f"text,label\n{text},0\n{text},1\n")
    with pytest.raises(ValueError, match=r"dataset='.*own\[1\]'.*rename it"):
        load_task_data(DataArguments(dataset=str(tmp_path / "own[1]")), seed=0)


def test_a_dataset_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "train.jsonl", "{broken")
    for dataset in (str(tmp_path / "own"), str(tmp_path / "missing" / "folder" / "x")):
        with pytest.raises(ValueError, match=f"dataset='{dataset}' cannot be loaded"):
            load_task_data(DataArguments(dataset=dataset), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "text,label\na,0\nx,b,1\n", r"train\.csv, row 3 \(the header is row 1\): there are 3 fields"),
        ("train.csv", "text,label,text\na,0,b\n", r"train\.csv, row 1 .*: the header names 'text' twice"),
        ("train.tsv", "text\tlabel\na\t0\t\n", r"train\.tsv, row 2 .*: there are 3 fields"),
    ],
)
def test_a_table_in_a_folder_whose_columns_would_be_shifted_is_refused(tmp_path, name, content, message):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", name, content)
    with pytest.raises(ValueError, match=f"dataset='{tmp_path / 'own'}'.*{message}"):
        load_task_data(DataArguments(dataset=str(tmp_path / "own")), seed=0)


def test_two_settings_cannot_name_one_column(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,0\nb,1\n")
    with pytest.raises(ValueError, match="text_column and label_column are both 'text': name two columns"):
        load_task_data(DataArguments(train_file=path, label_column="text"), seed=0)


def test_columns_may_exchange_their_names(tmp_path):
    path = write(tmp_path, "a.csv", "label,text\na,0\nb,1\n")
    columns = [Column("label", "text", "text_column"), Column("text", "label", "label_column")]
    source = load_splits(DataArguments(train_file=path), columns, (".csv",), {})["train"]
    assert [(row["text"], row["label"]) for row in source.rows] == [("a", 0), ("b", 1)]
