import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_kd_lambda.data import bundled
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.texts import GLUE_TASKS, load_task_data

GLUE = Path(__file__).parents[3] / "shared" / "glue"
needs_glue = pytest.mark.skipif(not GLUE.is_dir(), reason="no local copy of the GLUE tasks next to the repository")

ROWS = [{"text": "good film", "label": 1}, {"text": "bad film", "label": 0}, {"text": "", "label": 1}]
NAMED = [{"text": "good", "label": "pos"}, {"text": "bad", "label": "neg"}]


def write(folder, name, rows):
    """Rows as a file of the format that the name's suffix says."""
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".csv":
        Dataset.from_list(rows).to_csv(path)
    else:
        Dataset.from_list(rows).to_parquet(path)
    return str(path)


def load_files(folder, train, validation, suffix=".jsonl", **settings):
    files = {
        f"{name}_file": write(folder, name + suffix, rows)
        for name, rows in (("train", train), ("validation", validation))
    }
    return load_task_data(DataArguments(**files, **settings), seed=0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# --- GLUE


@needs_glue
@pytest.mark.parametrize(
    ("task", "splits", "has_pairs", "report_split"),
    [
        ("sst2", {"train": 67349, "validation": 872}, False, "validation"),
        ("mrpc", {"train": 3667, "validation": 408, "test": 1725}, True, "test"),
        ("stsb", {"train": 5749, "validation": 1500}, True, "validation"),
        ("wnli", {"train": 635, "validation": 71}, True, "validation"),
    ],
)
def test_local_glue_is_read_like_the_hubs(task, splits, has_pairs, report_split):
    data = load_task_data(DataArguments(dataset=str(GLUE), task=task), seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == splits
    assert set(data.splits["train"].column_names) == {"text", "label"} | ({"text_pair"} if has_pairs else set())
    assert (data.has_pairs, data.report_split) == (has_pairs, report_split)
    assert data.is_regression == (task == "stsb")
    assert data.num_labels == (1 if task == "stsb" else 2)
    assert data.label_names == (None if task == "stsb" else list(GLUE_TASKS[task].label_names))


@needs_glue
def test_glue_labels_mean_what_their_names_say():
    data = load_task_data(DataArguments(dataset=str(GLUE), task="sst2"), seed=0)
    rows = [row for row in data.splits["validation"] if "wonderful" in row["text"]]
    names = [data.label_names[row["label"]] for row in rows]
    assert names.count("positive") > names.count("negative")


@pytest.fixture
def glue_folder(tmp_path):
    """Folder with MNLI in the Hub's layout, its labels as plain integers and hidden in the test splits."""

    def write_folder(task="mnli", label=None):
        (tmp_path / "glue" / task).mkdir(parents=True)
        columns = GLUE_TASKS[task]
        mnli = ["validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
        names = ["train", *(mnli if task == "mnli" else ["validation", "test"])]
        for name in names:
            labels = [-1] * 3 if name.startswith("test") else [label if label is not None else i for i in range(3)]
            rows = [{columns.text_column: name, "label": value, "idx": i} for i, value in enumerate(labels)]
            if columns.text_pair_column:
                rows = [row | {columns.text_pair_column: "b"} for row in rows]
            write(tmp_path / "glue" / task, f"{name}.parquet", rows)
        files = "\n".join(f"  - split: {name}\n    path: {task}/{name}.parquet" for name in names)
        readme = f"---\nconfigs:\n- config_name: {task}\n  data_files:\n{files}\n---\n"
        (tmp_path / "glue" / "README.md").write_text(readme)
        return str(tmp_path / "glue")

    return write_folder


def test_mnli_validates_on_the_matched_genres_and_keeps_the_others(glue_folder):
    data = load_task_data(DataArguments(dataset=glue_folder(), task="mnli"), seed=0)
    assert set(data.splits) == {"train", "validation", "validation_mismatched"}
    assert data.splits["validation"]["text"][0] == "validation_matched"
    assert data.report_split == "validation"


def test_plain_integers_get_the_tasks_names(glue_folder):
    data = load_task_data(DataArguments(dataset=glue_folder(), task="mnli"), seed=0)
    assert data.label_names == ["entailment", "neutral", "contradiction"]
    assert data.splits["train"]["label"][:] == [0, 1, 2]


def test_an_unlabelled_test_split_is_not_evaluated(glue_folder):
    data = load_task_data(DataArguments(dataset=glue_folder("stsb", label=2.5), task="stsb"), seed=0)
    assert set(data.splits) == {"train", "validation"}
    assert data.splits["train"]["label"][:] == [2.5] * 3


@pytest.mark.parametrize(
    ("task", "message"),
    [("SST-2", "did you mean 'sst2'"), ("stbs", "did you mean 'stsb'"), ("squad_v2", "choose from cola, sst2")],
)
def test_unknown_task_names_the_nearest(task, message):
    with pytest.raises(ValueError, match=message):
        load_task_data(DataArguments(dataset="nyu-mll/glue", task=task), seed=0)


# --- own data


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_integer_labels_are_named_by_their_number(tmp_path, suffix):
    data = load_files(tmp_path, ROWS, ROWS[:2], suffix)
    assert data.label_names == ["0", "1"]
    assert data.splits["train"].to_list() == ROWS
    assert data.splits["train"].features["label"] == ClassLabel(names=["0", "1"])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_string_labels_are_sorted_and_encoded_alike_on_all_splits(tmp_path, suffix):
    data = load_files(tmp_path, NAMED, NAMED[:1], suffix)
    assert data.label_names == ["neg", "pos"]
    assert (data.splits["train"]["label"][:], data.splits["validation"]["label"][:]) == ([1, 0], [1])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_float_labels_are_a_regression(tmp_path, suffix):
    rows = [{"text": "a", "label": 0.5}, {"text": "b", "label": 2.0}]
    data = load_files(tmp_path, rows, rows, suffix)
    assert data.is_regression
    assert data.num_labels == 1
    assert data.splits["train"]["label"][:] == [0.5, 2.0]


def test_booleans_are_two_classes(tmp_path):
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    data = load_files(tmp_path, rows, rows)
    assert data.label_names == ["False", "True"]
    assert data.splits["train"]["label"][:] == [1, 0]


def test_named_columns_become_uniform_and_others_go(tmp_path):
    rows = [{"text": "unused", "q": "a", "a": "b", "stars": i, "id": 7} for i in range(2)]
    data = load_files(tmp_path, rows, rows, text_column="q", text_pair_column="a", label_column="stars")
    assert data.splits["train"][1] == {"text": "a", "text_pair": "b", "label": 1}


def test_a_csv_keeps_texts_that_look_like_missing_values(tmp_path):
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(["None", "NA", "null", "", "nan"])]
    data = load_files(tmp_path, rows, rows, ".csv")
    assert data.splits["train"]["text"][:] == ["None", "NA", "null", "", "nan"]


def test_class_names_of_a_validation_file_in_another_order_are_followed(tmp_path):
    paths = []
    for name, order in (("train", ["neg", "pos"]), ("validation", ["pos", "neg"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=order)})
        paths.append(str(tmp_path / f"{name}.parquet"))
        Dataset.from_dict({"text": ["a", "b"], "label": ["pos", "neg"]}, features).to_parquet(paths[-1])
    data = load_task_data(DataArguments(train_file=paths[0], validation_file=paths[1]), seed=0)
    assert data.splits["train"]["label"][:] == data.splits["validation"]["label"][:] == [1, 0]


def test_sample_limits(tmp_path):
    rows = [{"text": str(i), "label": i % 2} for i in range(40)]
    limits = {"max_train_samples": 10, "max_eval_samples": 3}
    data = load_files(tmp_path, rows, rows, **limits)
    again = load_files(tmp_path, rows, rows, **limits)
    drawn = data.splits["train"]["text"][:]
    assert len(set(drawn)) == 10
    assert drawn != [str(i) for i in range(10)]
    assert again.splits["train"]["text"][:] == drawn
    evaluated = data.splits["validation"]["text"][:]
    assert len(set(evaluated)) == 3
    assert evaluated != ["0", "1", "2"], "they may be sorted by class"
    other = load_task_data(
        DataArguments(
            train_file=str(tmp_path / "train.jsonl"), validation_file=str(tmp_path / "train.jsonl"), **limits
        ),
        seed=1,
    )
    assert other.splits["train"]["text"][:] != drawn
    assert other.splits["validation"]["text"][:] == evaluated


def test_quickstart_is_loaded_by_its_name(monkeypatch):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "neutral", "positive"])})
    split = Dataset.from_dict({"text": ["a", "b"], "label": [0, 2]}, features)
    tweets = DatasetDict({"train": split, "validation": split, "test": split})
    monkeypatch.setattr(bundled, "load_tweets", lambda: tweets)
    data = load_task_data(DataArguments(dataset="quickstart"), seed=0)
    assert data.label_names == ["negative", "neutral", "positive"]
    assert data.report_split == "test"


# --- bad input


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (ROWS, NAMED, "validation_file=.*, line 1: label 'pos' is not one of the classes 0 to 1"),
        (NAMED, [{"text": "a", "label": "meh"}], "validation_file=.*, line 1: label 'meh' is not one.*neg, pos"),
        (
            ROWS,
            [*ROWS, {"text": "a", "label": 2}],
            "validation_file=.*, line 4: label 2 is not one of the classes 0 to 1",
        ),
        (ROWS, [{"text": "a", "label": -1}], "validation_file=.*, line 1: label -1 is not one"),
        ([{"text": "a", "label": i} for i in (1, 2, 3)], ROWS, "labels of the train split are 1, 2, 3.*0 to n-1"),
        ([{"text": "a", "label": i} for i in (-1, 0, 1)], ROWS, "labels of the train split are -1, 0, 1"),
        (ROWS[:1], ROWS, "every label of the train split is 1"),
        ([*ROWS, {"text": None, "label": 0}], ROWS, "train_file=.*, line 4: column 'text' holds None"),
        ([{"text": 5, "label": 0}], ROWS, "train_file=.*, line 1: column 'text' holds 5, which is no text"),
        (ROWS, [{"text": "a", "label": None}], "validation_file=.*: no example has a label, which evaluation needs"),
        ([{"text": "a", "label": 0.5}], [{"text": "a", "label": "x"}], "line 1: label 'x' is no number"),
        ([{"text": "a", "label": [0, 1]}], ROWS, r"line 1: column 'label' holds \[0, 1\], which is no label"),
        (ROWS, [{"text": "a", "label": 0.5}], "line 1: label 0.5 is not one of the classes"),
        ([{"words": "a", "label": 0}], ROWS, "train_file=.* has no column 'text', only words, label: set text_column"),
        (ROWS, [{"text": "a", "class": 0}], "only text, class: set label_column. Evaluation needs labels; training"),
    ],
)
def test_bad_rows_are_named(tmp_path, train, validation, message):
    with pytest.raises(ValueError, match=message):
        load_files(tmp_path, train, validation)


def test_labels_that_are_not_finite_are_named(tmp_path):
    rows = [{"text": "a", "label": 0.5}, {"text": "b", "label": np.inf}]
    with pytest.raises(ValueError, match=r"train_file=.*, row 1 .counted from 0.: column 'label' holds inf"):
        load_files(tmp_path, rows, rows, ".parquet")


def test_rows_without_a_label_are_named_and_left_out_of_an_evaluation(tmp_path, caplog):
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,\nc,1\n" + "d,\n" * 9)
    path = str(tmp_path / "train.csv")
    data = load_task_data(DataArguments(train_file=path, validation_file=path), seed=0)
    assert data.splits["validation"][:] == {"text": ["a", "c"], "label": [0, 1]}
    assert len(data.splits["train"]) == 12
    where = "row 3, 5, 6, 7, 8, … (the header is row 1): 10 of 12"
    assert f"validation_file={path!r}, {where} examples have no label, and are left out" in caplog.text
    assert f"train_file={path!r}, {where} training examples have no label, so that the KD loss" in caplog.text


def test_an_empty_split_is_named(monkeypatch):
    full = Dataset.from_list(ROWS)
    splits = DatasetDict({"train": full, "validation": full.select([])})
    monkeypatch.setattr(bundled, "load_tweets", lambda: splits)
    with pytest.raises(ValueError, match="the validation split is empty"):
        load_task_data(DataArguments(dataset="quickstart"), seed=0)


def test_a_dataset_without_validation_split_can_be_given_one(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    write(folder, "train.jsonl", ROWS)
    write(folder, "test.jsonl", ROWS)
    with pytest.raises(
        ValueError, match=r"no validation split, and none can be held out: validation_share=0.1 of 3 examples"
    ):
        load_task_data(DataArguments(dataset=str(folder)), seed=0)
    path = write(tmp_path, "validation.csv", ROWS[:2])
    data = load_task_data(DataArguments(dataset=str(folder), validation_file=path), seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "validation": 2, "test": 3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.xlsx", "a", "train.xlsx' is not one of .csv, .* Save it as csv, or pandas.read_excel"),
        ("train.txt", "a", "train_file='.*train.txt' is not one of .csv, .tsv, .json, .jsonl, .parquet"),
        ("train.csv", None, "train_file='.*train.csv' does not exist"),
        ("train.jsonl", "{broken", "train_file='.*train.jsonl', line 1: it is no valid JSON"),
        ("train.csv", "text,label\n", "train_file='.*train.csv' is empty: it has no rows"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    files = {"train_file": str(tmp_path / name), "validation_file": write(tmp_path, "validation.csv", ROWS)}
    with pytest.raises(ValueError, match=message):
        load_task_data(DataArguments(**files), seed=0)


def test_numbers_with_a_decimal_comma_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    args = DataArguments(train_file=str(path), delimiter=";")
    path.write_text("text;label\n" + "x;3\nx;3,5\nx;\nx;-1,25\n" * 10)
    with pytest.raises(ValueError, match=r"a\.csv', row 3 .*: column 'label' holds '3,5': write .* such as 3\.5"):
        load_task_data(args, seed=0)
    path.write_text("text;label\n" + "x;3 to 3,5\nx;3,5\n" * 10)
    assert load_task_data(args, seed=0).label_names == ["3 to 3,5", "3,5"]


def test_blank_labels_of_a_jsonl_are_missing(tmp_path):
    rows = [{"text": f"text {i}", "label": ["pos", "neg", "", " "][i % 4]} for i in range(40)]
    data = load_files(tmp_path, rows, NAMED)
    assert data.label_names == ["neg", "pos"]
    assert data.splits["train"]["label"][:4] == [1, 0, None, None]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_whole_numbers_from_0_on_are_classes_or_numbers_as_problem_type_says(tmp_path, suffix):
    floats = [{"text": f"text {i}", "label": [0.0, 1.0, 2.0, None][i % 4]} for i in range(40)]
    integers = [{"text": f"text {i}", "label": i % 3} for i in range(40)]
    message = "the labels of the train split are 0.0 to 2.0, .*: set problem_type to single_label_classification or"
    with pytest.raises(ValueError, match=message):
        load_files(tmp_path, floats, integers, suffix)
    assert load_files(tmp_path, floats, integers, suffix, problem_type="regression").is_regression
    data = load_files(tmp_path, floats, integers, suffix, problem_type="single_label_classification")
    assert data.label_names == ["0", "1", "2"]
    assert data.splits["train"]["label"][:4] == [0, 1, 2, None]
    evaluated = load_files(tmp_path, integers, [floats[1]], suffix).splits["validation"]
    assert evaluated["label"][:] == [1]


def test_other_numbers_are_a_regression_and_no_classes(tmp_path):
    rows = [{"text": f"text {i}", "label": i % 5 + 1.0} for i in range(40)]
    assert load_files(tmp_path, rows, rows).is_regression
    halves = [{"text": row["text"], "label": row["label"] / 2} for row in rows]
    with pytest.raises(ValueError, match=r"problem_type='single_label_classification': the label 0\.5 of the train"):
        load_files(tmp_path, halves, halves, problem_type="single_label_classification")


def test_labels_that_are_mostly_different_are_named(tmp_path, caplog):
    rows = [{"text": f"text {i}", "label": f"{i} %"} for i in range(30)]
    load_files(tmp_path, rows, rows[:2])
    assert "the 30 labels of the train split are 30 different names, such as 0 %" in caplog.text.replace("'", "")


def test_files_of_several_kinds_are_joined(tmp_path):
    rows = pd.DataFrame({"text": [f"text {i}" for i in range(20)], "label": ["a", "b"] * 10})
    rows.to_parquet(tmp_path / "train.parquet")
    rows.to_csv(tmp_path / "validation.csv", index=False)
    (tmp_path / "unlabelled.txt").write_text("one\ntwo\n")
    files = {"train": "train.parquet", "validation": "validation.csv", "unlabelled": "unlabelled.txt"}
    args = DataArguments(**{f"{split}_file": str(tmp_path / name) for split, name in files.items()})
    data = load_task_data(args, seed=0)
    assert data.splits["train"]["label"][:] == [0, 1] * 10 + [None] * 2
    assert data.splits["train"]["text"][-2:] == ["one", "two"]


@pytest.mark.parametrize("has_splits", [False, True])
def test_what_save_to_disk_wrote_is_a_dataset(tmp_path, has_splits):
    saved = Dataset.from_list([{"text": f"text {i}", "label": i % 2} for i in range(20)])
    (DatasetDict(train=saved, validation=saved) if has_splits else saved).save_to_disk(tmp_path / "saved")
    data = load_task_data(DataArguments(dataset=str(tmp_path / "saved")), seed=0)
    assert len(data.splits["train"]) == (20 if has_splits else 18)
    assert set(data.splits["validation"]["text"]) <= set(saved["text"])
