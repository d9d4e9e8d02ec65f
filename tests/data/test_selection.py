"""Which examples are held out, and how many are taken."""

from collections import Counter

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from helpers.tiny_images import image_dataset

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.images import load_image_data
from hf_kd_lambda.data.lm_texts import load_texts
from hf_kd_lambda.data.selection import (
    count_unlabelled,
    held_out_rows,
    labelled,
    select_examples,
    strata_of_lists,
)
from hf_kd_lambda.data.texts import load_task_data
from hf_kd_lambda.data.words import load_token_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, content):
    (folder / name).write_text(content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ({"a": 60, "b": 30, "c": 10}, 0.1, {"a": 6, "b": 3, "c": 1}),
        ({"a": 595, "b": 4, "c": 1}, 0.1, {"a": 60}),
        ({"a": 15, "b": 15}, 0.1, {"a": 1, "b": 2}),
        ({"a": 1, "b": 1}, 0.9, {}),
        ({"a": 2, "b": 2}, 0.99, {"a": 1, "b": 1}),
        ({"a": 3}, 0.1, {}),
    ],
)
def test_the_same_share_of_each_class_is_held_out(counts, share, expected):
    strata = [name for name, count in counts.items() for _ in range(count)]
    rows = held_out_rows(strata, share)
    found = Counter(strata[row] for row in rows)
    assert sorted(found.values()) == sorted(expected.values())
    assert rows == held_out_rows(strata, share)
    assert len(set(rows)) == len(rows)
    if len(set(counts.values())) > 1:
        assert found == expected


def texts_of(split):
    return set(split["text"][:])


def test_a_file_alone_is_parted_whatever_the_seed_and_the_limits(tmp_path, caplog):
    rows = "".join(f"t{i},{'rare' if i % 10 == 0 else 'common'}\n" for i in range(200))
    path = write(tmp_path, "a.csv", "text,label\n" + rows)
    data = load_task_data(DataArguments(train_file=path), seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 180, "validation": 20}
    assert Counter(data.splits["validation"]["label"][:]) == {0: 18, 1: 2}
    assert not texts_of(data.splits["train"]) & texts_of(data.splits["validation"])
    assert "20 of 200 training examples are held out (validation_share=0.1, the same of each class)" in caplog.text
    other = load_task_data(DataArguments(train_file=path, max_train_samples=9), seed=5)
    assert texts_of(other.splits["validation"]) == texts_of(data.splits["validation"])
    for parted in (data, other):
        assert [f"t{row}" for row in parted.train_rows] == parted.splits["train"]["text"][:]
    half = load_task_data(DataArguments(train_file=path, validation_share=0.5), seed=0)
    assert len(half.splits["validation"]) == 100


def test_all_rows_of_a_text_are_on_one_side(tmp_path):
    rows = "".join(f"t{i % 50},{'ab'[i % 3 == 0]}\n" for i in range(100)) + "".join(f"t{i},\n" for i in range(25))
    data = load_task_data(DataArguments(train_file=write(tmp_path, "a.csv", "text,label\n" + rows)), seed=0)
    train, validation = data.splits.values()
    assert not texts_of(train) & texts_of(validation)
    assert len(texts_of(validation)) == 2, "a tenth of the texts that have a label in every row"
    assert len(validation) == 4
    path = write(tmp_path, "b.csv", "text,label\n" + "t0,a\nt1,b\n" * 20)
    assert len(load_task_data(DataArguments(train_file=path), seed=0).splits["validation"]) == 4


def test_texts_and_words_without_validation_are_parted(tmp_path):
    path = write(tmp_path, "a.txt", "".join(f"text {i}\n" for i in range(40)))
    data = load_texts(DataArguments(problem="text-generation", train_file=path), seed=0)
    assert [len(split) for split in data.splits.values()] == [36, 4]
    rows = "".join(
        f'{{"tokens": ["w{i}", "x"], "label": ["{"B-RARE" if i % 4 == 0 else "O"}", "O"]}}\n' for i in range(40)
    )
    path = write(tmp_path, "a.jsonl", rows)
    data = load_token_data(DataArguments(problem="token-classification", train_file=path), seed=0)
    assert [len(split) for split in data.splits.values()] == [36, 4]
    assert sum(labels[0] == 0 for labels in data.splits["validation"]["label"][:]) == 1
    path = write(tmp_path, "b.csv", "text,label\n" + "".join(f"t{i},{i / 7}\n" for i in range(40)))
    data = load_task_data(DataArguments(train_file=path), seed=0)
    assert [len(split) for split in data.splits.values()] == [36, 4]


def test_a_validation_split_is_left_as_it_is(caplog):
    split = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]})
    for share in (DataArguments.validation_share, 0.2):
        args = DataArguments(dataset="d", validation_share=share)
        chosen = select_examples({"train": split, "validation": split}, args, 0, [0, 1, 0])
        assert [len(part) for part in chosen.splits.values()] == [3, 3]
        assert chosen.train_rows == [0, 1, 2]
        warning = f"validation_share={share} has no effect: dataset='d' has a validation split."
        assert (warning in caplog.text) == (share == 0.2)


def test_rows_are_numbered_as_pandas_does_also_where_some_hold_only_separators(tmp_path):
    content = "text;label\n;\ngood;pos\n\n ; \nbad;neg\n  \nfine;pos\n;\nworse;neg\n"
    path, more = write(tmp_path, "a.csv", content), write(tmp_path, "b.csv", "text\nmore\n")
    args = DataArguments(train_file=path, validation_file=path, unlabelled_file=more, delimiter=";")
    data = load_task_data(args, seed=0)
    texts = pd.concat([pd.read_csv(path, sep=";")["text"], pd.read_csv(more)["text"]], ignore_index=True)
    assert (
        texts[data.train_rows].tolist() == data.splits["train"]["text"][:] == ["good", "bad", "fine", "worse", "more"]
    )


# --- transfer sets

LABELLED = "text,label\n" + "".join(f"t{i},{'pos' if i % 2 else 'neg'}\n" for i in range(40))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("more.txt", "u0\nu1\n\nu2\n"),
        ("more.csv", "text,label\nu0,pos\nu1,\nu2,other\n"),
        ("more.jsonl", '{"text": "u0"}\n{"text": "u1", "label": 7}\n{"text": "u2"}\n'),
        ("more.parquet", None),
    ],
)
def test_an_unlabelled_file_comes_last_in_train_whatever_its_labels(tmp_path, name, content):
    train, more = write(tmp_path, "train.csv", LABELLED), str(tmp_path / name)
    if content is None:
        Dataset.from_dict({"text": ["u0", "u1", "u2"]}).to_parquet(more)
    else:
        write(tmp_path, name, content)
    data = load_task_data(DataArguments(train_file=train, unlabelled_file=more, max_train_samples=10), seed=0)
    assert data.label_names == ["neg", "pos"]
    rows = data.splits["train"]
    assert len(rows) == 13
    assert rows["text"][10:] == ["u0", "u1", "u2"]
    assert rows["label"][10:] == [None] * 3
    assert [f"t{row}" for row in data.train_rows[:10]] == rows["text"][:10]
    assert data.train_rows[10:] == ([40, 41, 43] if name == "more.txt" else [40, 41, 42])
    assert count_unlabelled(rows) == 3
    assert len(data.splits["validation"]) == 4


def test_unlabelled_examples_are_left_out_if_all_their_texts_are_blank(tmp_path, caplog):
    train = write(tmp_path, "train.csv", "text,other,label\na,b,pos\nc,d,neg\n")
    more = write(tmp_path, "more.csv", 'text,other\n,u0\nu1, \n" ",""\nu2,u3\n')
    args = DataArguments(train_file=train, validation_file=train, unlabelled_file=more, text_pair_column="other")
    data = load_task_data(args, seed=0)
    assert data.splits["train"]["text_pair"][2:] == ["u0", " ", "u3"]
    lines = write(tmp_path, "more.txt", "u\n\n \n")
    load_task_data(DataArguments(train_file=train, validation_file=train, unlabelled_file=lines), seed=0)
    assert f"unlabelled_file='{lines}': 2 examples are empty and left out." in caplog.text


def test_an_unlabelled_dataset_is_a_split_of_that_name_or_train(tmp_path, monkeypatch):
    texts = Dataset.from_dict({"text": ["u0", "u1"], "label": [-1, -1]})
    stored = {"org/a": DatasetDict({"train": texts.select([0]), "unsupervised": texts}), "org/b": {"train": texts}}
    monkeypatch.setattr("hf_kd_lambda.data.splits.load_dataset", lambda name, _: stored[name])
    train = write(tmp_path, "train.csv", LABELLED)
    for name in stored:
        data = load_task_data(DataArguments(train_file=train, unlabelled_dataset=name), seed=0)
        assert data.splits["train"]["text"][-2:] == ["u0", "u1"]
    stored["org/b"] = {"test": texts}
    with pytest.raises(ValueError, match=r"unlabelled_dataset='org/b' has none of the splits .*, only test"):
        load_task_data(DataArguments(train_file=train, unlabelled_dataset="org/b"), seed=0)


def test_without_a_label_in_training_the_classes_are_those_of_the_evaluation(tmp_path):
    evaluated, empty = write(tmp_path, "dev.csv", LABELLED), write(tmp_path, "train.csv", "text,label\na,\nb,\n")
    more = write(tmp_path, "more.txt", "u0\nu1\n")
    for given in ({"train_file": empty}, {"unlabelled_file": more}):
        data = load_task_data(DataArguments(validation_file=evaluated, **given), seed=0)
        assert data.label_names == ["neg", "pos"]
        assert data.splits["train"]["label"][:] == [None, None]
    with pytest.raises(ValueError, match=r"no example has a label: .* set validation_file"):
        load_task_data(DataArguments(train_file=empty), seed=0)
    with pytest.raises(ValueError, match="validation_file=None: training needs no labels, but evaluation does"):
        DataArguments(unlabelled_file=more)
    with pytest.raises(ValueError, match="unlabelled_file='a' and unlabelled_dataset='b': give one"):
        DataArguments(train_file=empty, unlabelled_file="a", unlabelled_dataset="b")


def test_unlabelled_files_that_cannot_be_used_are_named(tmp_path, monkeypatch):
    train = write(tmp_path, "train.csv", "text,other,label\n" + "".join(f"t{i},o,{i % 2}\n" for i in range(40)))
    blank, texts = write(tmp_path, "blank.txt", "\n \n"), write(tmp_path, "more.txt", "u0\n")
    with pytest.raises(ValueError, match=r"unlabelled_file='.*blank\.txt' has no text"):
        load_task_data(DataArguments(train_file=train, unlabelled_file=blank), seed=0)
    with pytest.raises(ValueError, match=r"unlabelled_file='.*more\.txt' has no column 'other', only text"):
        load_task_data(DataArguments(train_file=train, unlabelled_file=texts, text_pair_column="other"), seed=0)
    tested = {"test": Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})}
    monkeypatch.setattr("hf_kd_lambda.data.splits.load_dataset", lambda *_: tested)
    with pytest.raises(ValueError, match="dataset='org/a' has neither a train nor a validation split: set validation"):
        load_task_data(DataArguments(dataset="org/a", unlabelled_file=texts), seed=0)


@pytest.mark.parametrize("missing", ["", "-100", "nan"])
def test_rows_without_a_label_are_counted_in_a_warning_and_never_held_out(tmp_path, caplog, missing):
    train = write(tmp_path, "train.csv", LABELLED + f"a,{missing}\nb,{missing}\n")
    data = load_task_data(DataArguments(train_file=train, validation_share=0.5), seed=0)
    assert data.splits["train"]["label"][:].count(None) == 2
    assert sorted(Counter(data.splits["validation"]["label"][:]).items()) == [(0, 10), (1, 10)]
    warnings = [record for record in caplog.messages if "have no label" in record]
    assert len(warnings) == 1
    assert "train_file='" in warnings[0]
    assert "2 of 42 training examples" in warnings[0]
    caplog.clear()
    more = write(tmp_path, "more.txt", "u0\n")
    load_task_data(DataArguments(train_file=train, unlabelled_file=more), seed=0)
    assert "have no label" not in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_text_nan_is_no_label_in_any_format(tmp_path, suffix):
    rows = Dataset.from_dict({"text": [f"t{i}" for i in range(41)], "label": ["pos", "neg"] * 20 + ["nan"]})
    write_rows = {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[suffix]
    write_rows(tmp_path / f"a.{suffix}")
    data = load_task_data(DataArguments(train_file=str(tmp_path / f"a.{suffix}")), seed=0)
    assert data.label_names == ["neg", "pos"]
    assert data.splits["train"]["label"][:].count(None) == 1


def test_integers_that_pandas_made_floats_are_classes_or_numbers(tmp_path):
    rows = "".join(f"t{i},{i % 3 + 1}.0\n" for i in range(40))
    path = write(tmp_path, "a.csv", f"text,label\n{rows}a,\n")
    with pytest.raises(ValueError, match=r"some labels are missing, and the others are 1\.0, 2\.0, 3\.0, which"):
        load_task_data(DataArguments(train_file=path), seed=0)
    data = load_task_data(DataArguments(train_file=path, problem_type="regression"), seed=0)
    assert data.is_regression
    assert data.splits["train"]["label"][:].count(None) == 1


def test_numbers_of_a_regression_may_be_missing(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\n" + "".join(f"t{i},{i / 7}\n" for i in range(40)) + "a,\n")
    data = load_task_data(DataArguments(train_file=path), seed=0)
    assert data.is_regression
    assert None not in data.splits["validation"]["label"][:]
    assert data.splits["train"]["label"][:].count(None) == 1


def test_words_and_images_without_labels(tmp_path, monkeypatch):
    rows = "".join(f'{{"tokens": ["w{i}", "x"], "label": ["{"B" if i % 4 == 0 else "O"}", "O"]}}\n' for i in range(40))
    train, more = write(tmp_path, "a.jsonl", rows), write(tmp_path, "b.jsonl", '{"tokens": ["u", "v"]}\n')
    args = DataArguments(problem="token-classification", train_file=train, unlabelled_file=more)
    assert load_token_data(args, seed=0).splits["train"][-1] == {"words": ["u", "v"], "label": None}

    stored = {"own": {"train": image_dataset(60)}, "more": {"train": image_dataset(5, seed=1).remove_columns("label")}}
    monkeypatch.setattr("hf_kd_lambda.data.splits.load_dataset", lambda name, _: stored[name])
    args = DataArguments(problem="image-classification", dataset="own", unlabelled_dataset="more")
    images = load_image_data(args, seed=0).splits["train"]
    assert images["label"][-6:].count(None) == 5
    assert images[-1]["image"].size == (16, 16)


@pytest.mark.parametrize("setting", ["unlabelled_file", "unlabelled_dataset"])
def test_a_language_model_has_no_unlabelled_texts(setting):
    with pytest.raises(ValueError, match=f"{setting}='a.txt': a language model has no examples without a label"):
        load_texts(DataArguments(train_file="b.txt", **{setting: "a.txt"}), seed=0)


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([0, -100, 2], [0, 2]),
        ([0.5, float("nan"), 0.0], [0, 2]),
        ([[-100, 1], [-100, -101], [-100, -100]], [0]),
    ],
)
def test_labelled_examples(labels, kept):
    examples = Dataset.from_dict({"row": list(range(3)), "labels": labels})
    assert labelled(examples)["row"][:] == kept


def test_a_window_of_question_answering_has_a_label_in_two_columns():
    windows = Dataset.from_dict({"start_positions": [2, -101, -101], "end_positions": [3, 4, -101]})
    assert labelled(windows)["end_positions"][:] == [3, 4]


def test_a_soft_label_is_in_the_stratum_of_its_rarest_class_with_half_of_it():
    assert strata_of_lists([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], None]) == [1, 0, None]
