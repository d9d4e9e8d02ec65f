"""What all kinds of examples share: classes and their order, what is held out, and the line that describes a split."""

from collections import Counter

import pytest
from datasets import ClassLabel, Dataset

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.files import Column, Source
from hf_kd_lambda.data.loading import (
    describe_split,
    encode_labels,
    find_classes,
    held_out_rows,
    load_splits,
    select_examples,
)
from hf_kd_lambda.data.text_blocks import load_texts
from hf_kd_lambda.data.texts import load_task_data
from hf_kd_lambda.data.words import load_token_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, content):
    (folder / name).write_text(content)
    return str(folder / name)


# --- classes


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        (["1.5", "10", "-3"], ["-3", "1.5", "10"]),
        (["b", "10", "2"], ["10", "2", "b"]),
        (["nan", "10", "2"], ["10", "2", "nan"]),
        (list(range(11)), [str(i) for i in range(11)]),
        ([True, False], ["False", "True"]),
    ],
)
def test_names_that_are_numbers_are_in_the_order_of_the_numbers(labels, names):
    assert find_classes(labels, None).names == names


def test_classes_have_one_order_whatever_the_format(tmp_path):
    """The same labels, as cells, as texts and as integers, and each format validated by each other."""
    labels = [str(i) for i in range(11)]
    files = {
        "csv": write(tmp_path, "a.csv", "text,label\n" + "".join(f"t{x},{x}\n" for x in labels)),
        "names": write(tmp_path, "a.jsonl", "".join(f'{{"text": "t{x}", "label": "{x}"}}\n' for x in labels)),
        "integers": write(tmp_path, "b.jsonl", "".join(f'{{"text": "t{x}", "label": {x}}}\n' for x in labels)),
    }
    for train in files.values():
        for validation in files.values():
            data = load_task_data(DataArguments(train_file=train, validation_file=validation), seed=0)
            assert data.label_names == labels
            assert data.splits["validation"]["label"][:] == list(range(11))


def encoded(train, validation, train_type=None, validation_type=None):
    def source(labels, feature, name):
        split = Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})
        return Source(split if feature is None else split.cast_column("label", feature), name)

    first, second = source(train, train_type, "train split"), source(validation, validation_type, "validation split")
    classes = find_classes(first.rows["label"][:], first.rows.features["label"])
    return encode_labels(second, classes)["label"][:]


def test_integers_stand_for_names_only_where_the_train_split_has_integers():
    with pytest.raises(ValueError, match=r"row 0 .*: label 1 is a number, the train split's are names: neg, pos"):
        encoded(["neg", "pos"], [1, 0])
    assert encoded([0, 1], [1, 0], ClassLabel(names=["neg", "pos"])) == [1, 0]
    assert encoded(["2", "10"], [2, 10]) == [0, 1]
    with pytest.raises(ValueError, match="label 1 is a number"):
        encoded(["2", "10"], [1])
    assert encoded([0, 1, 2], ["2", "0"]) == [2, 0]
    assert encoded([0, 1], [0, 1], ClassLabel(names=["a", "b"]), ClassLabel(names=["b", "a"])) == [1, 0]


def test_names_in_a_message_are_few():
    names = [f"class{i}" for i in range(500)]
    with pytest.raises(ValueError, match="label 'x' is none of the classes 0 to 499") as error:
        encoded(names, ["x"])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("label", [1e20, -1e20, 3e38, 1e300, float("inf"), float("nan")])
def test_numbers_that_float32_cannot_square_are_refused(label):
    assert encoded([0.5, 1e15], [1e15]) == [pytest.approx(1e15)]
    with pytest.raises(ValueError, match=r"validation split, row 1 .*: label .* is too large"):
        encoded([0.5, 1.0], [0.5, label])


def test_a_label_too_large_names_file_and_row(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,0.5\nb,1e20\n")
    with pytest.raises(ValueError, match=r"train_file='.*a\.csv', row 3 \(the header is row 1\): label 1e\+20"):
        load_task_data(DataArguments(train_file=path, validation_file=path), seed=0)


# --- splits


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


# --- what is held out


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
    half = load_task_data(DataArguments(train_file=path, validation_share=0.5), seed=0)
    assert len(half.splits["validation"]) == 100


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


def test_a_validation_split_is_left_as_it_is():
    split = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 0]})
    chosen = select_examples({"train": split, "validation": split}, DataArguments(dataset="d"), 0, [0, 1, 0])
    assert [len(part) for part in chosen.values()] == [3, 3]


# --- the line


@pytest.mark.parametrize(
    ("columns", "names", "cut", "line"),
    [
        (
            {"text": ["a", " ", ""], "label": [0, 1, 0]},
            ["neg", "pos"],
            0,
            "s: 3 examples, neg 2; pos 1, 2 empty texts",
        ),
        ({"text": ["a"], "label": [1]}, ["neg", "pos"], 4, "s: 1 examples, neg 0; pos 1, 4 truncated to 8 tokens"),
        ({"text": ["a"], "text_pair": [""], "label": [0.5]}, None, 0, "s: 1 examples, 1 empty texts"),
        ({"words": [["a", "b"]], "label": [[0, 1]]}, ["O", "B"], 0, "s: 1 examples, O 1; B 1"),
        ({"label": [0, 0, 1]}, [str(i) for i in range(99)], 0, "s: 3 examples, 99 classes of 0 to 2"),
    ],
)
def test_a_split_is_described_in_a_line(columns, names, cut, line):
    assert describe_split("s", Dataset.from_dict(columns), names, cut, 8) == line
