"""Lists of words with a label each: what is read, how labels are named, and what is refused."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.words import load_token_data

NAMES = ["O", "B-PER", "I-PER"]
ROWS = [
    {"tokens": ["Ada", "Lovelace", "wrote"], "label": ["B-PER", "I-PER", "O"]},
    {"tokens": ["so"], "label": ["O"]},
    {"tokens": ["", "Ada"], "label": ["O", "B-PER"]},
]
CODES = [[0, 1, 2], [2], [2, 0]]  # of the names in their sorted order, B-PER, I-PER, O


def dataset(rows, label_type=None, tokens="tokens", labels="label"):
    data = Dataset.from_list([{tokens: row["tokens"], labels: row["label"]} for row in rows])
    return data if label_type is None else data.cast_column(labels, List(label_type))


def with_names(rows, names):
    """The labels as indices of these names, which the dataset has."""
    coded = [{**row, "label": [names.index(label) for label in row["label"]]} for row in rows]
    return dataset(coded, ClassLabel(names=names))


def write(folder, name, data):
    path = folder / name
    if path.suffix == ".parquet":
        data.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in data))
    return str(path)


def load_files(folder, train, validation, suffix=".jsonl", **settings):
    files = {
        f"{name}_file": write(folder, name + suffix, data if isinstance(data, Dataset) else dataset(data))
        for name, data in (("train", train), ("validation", validation))
    }
    return load_token_data(DataArguments(problem="token-classification", **files, **settings), seed=0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


# --- what is read


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_names_are_sorted_and_encoded_alike_on_all_splits(tmp_path, suffix):
    data = load_files(tmp_path, ROWS, ROWS[1:], suffix)
    assert data.label_names == ["B-PER", "I-PER", "O"]
    assert data.splits["train"].to_list() == [
        {"words": row["tokens"], "label": codes} for row, codes in zip(ROWS, CODES, strict=True)
    ]
    assert data.splits["validation"]["label"][:] == CODES[1:]
    assert (data.num_labels, data.is_regression, data.glue_task) == (3, False, None)


def test_integers_are_named_by_their_number(tmp_path):
    rows = [{"tokens": ["a", "b"], "label": [0, 1]}, {"tokens": ["c"], "label": [2]}]
    data = load_files(tmp_path, rows, rows[:1])
    assert data.label_names == ["0", "1", "2"]
    assert data.splits["train"]["label"][:] == [[0, 1], [2]]


def test_names_that_the_dataset_knows_keep_their_order_and_are_followed_by_the_others(tmp_path):
    data = load_files(tmp_path, with_names(ROWS, NAMES), with_names(ROWS, NAMES[::-1]), ".parquet")
    assert data.label_names == NAMES
    assert data.splits["train"]["label"][:] == data.splits["validation"]["label"][:] == [[1, 2, 0], [0], [0, 1]]


def test_columns_may_have_other_names(tmp_path):
    data = dataset(ROWS, tokens="words", labels="ner_tags")
    loaded = load_files(tmp_path, data, data, text_column="words", label_column="ner_tags")
    assert loaded.splits["train"].column_names == ["words", "label"]
    assert loaded.splits["train"]["words"][0] == ROWS[0]["tokens"]


def test_examples_without_words_are_left_out(tmp_path, caplog):
    data = load_files(tmp_path, [*ROWS[:1], {"tokens": [], "label": []}, *ROWS[1:]], ROWS)
    assert data.splits["train"]["words"][:] == [row["tokens"] for row in ROWS]
    assert "1 examples of the train split have no words and are left out" in caplog.text


def test_sample_limits(tmp_path):
    rows = [{"tokens": [str(i)], "label": [i % 2]} for i in range(40)]
    limits = {"max_train_samples": 10, "max_eval_samples": 3}
    drawn, again = (load_files(tmp_path, rows, rows, **limits).splits["train"]["words"][:] for _ in range(2))
    assert drawn == again
    assert len({word for (word,) in drawn}) == 10
    assert drawn != [[str(i)] for i in range(10)]
    evaluated = load_files(tmp_path, rows, rows, **limits).splits["validation"]["words"][:]
    assert len({word for (word,) in evaluated}) == 3
    assert evaluated != [["0"], ["1"], ["2"]]


@pytest.mark.parametrize(("labels", "is_kept"), [([[0, 1, 1], [0]], True), ([[-1, -1, -1], [-1]], False)])
def test_a_test_split_is_kept_where_its_labels_are_known(tmp_path, labels, is_kept):
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        tags = labels if name == "test" else [[0, 1, 1], [0]]
        write(folder, f"{name}.jsonl", Dataset.from_dict({"tokens": [["a", "b", "c"], ["d"]], "label": tags}))
    data = load_token_data(DataArguments(problem="token-classification", dataset=str(folder)), seed=0)
    assert data.report_split == ("test" if is_kept else "validation")
    file = str(folder / "train.jsonl")
    data = load_token_data(DataArguments(dataset=str(folder), test_file=file), seed=0)
    assert data.splits["test"]["label"][:] == [[0, 1, 1], [0]]


# --- bad input


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (ROWS, [{"tokens": ["a"], "label": ["B-ORG"]}], "validation_file=.*, line 1: label 'B-ORG' is not one"),
        (
            [{"tokens": ["a", "b"], "label": [0, 1]}],
            [{"tokens": ["a"], "label": [2]}],
            "line 1: label 2 is not one of",
        ),
        (ROWS, [*ROWS, {"tokens": ["a"], "label": ["O", "O"]}], "validation_file=.*, line 4: .* 2 labels for 1"),
        ([*ROWS, {"tokens": None, "label": ["O"]}], ROWS, "train_file=.*, line 4: column 'tokens' holds None"),
        ([*ROWS, {"tokens": ["a", None], "label": ["O", "O"]}], ROWS, r"line 4: column 'tokens' holds \['a', None\]"),
        (ROWS, [{"tokens": ["a"], "label": None}], "no example has a label, which evaluation needs"),
        ([*ROWS, {"tokens": ["a"], "label": [None]}], ROWS, r"line 4: column 'label' holds \[None\], which"),
        ([{"tokens": "a film", "label": ["O"]}], ROWS, "line 1: column 'tokens' holds 'a film', which"),
        ([{"tokens": ["a"], "label": "O"}], ROWS, "line 1: column 'label' holds 'O', which"),
        ([{"tokens": ["a"], "label": [0.5]}], ROWS, r"line 1: column 'label' holds \[0.5\], which"),
        ([{"tokens": ["a", "b"], "label": ["O", "O"]}], ROWS, "every label of the train split is 'O'"),
        ([{"tokens": ["a", "b"], "label": [1, 2]}], ROWS, "labels of the train split are 1, 2: .*0 to n-1"),
        ([{"tokens": [], "label": []}], ROWS, "the train split is empty"),
    ],
)
def test_bad_rows_are_named(tmp_path, train, validation, message):
    with pytest.raises(ValueError, match=message):
        load_files(tmp_path, train, validation)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_column": "words"}, "train_file=.* has no column 'words', only tokens, label: set text_column"),
        ({"label_column": "ner_tags"}, "train_file=.* has no column 'ner_tags', only tokens, label: set label_column"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        load_files(tmp_path, ROWS, ROWS, **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "tokens,label\n", "train_file='.*train.csv' is not one of .json, .jsonl, .parquet"),
        ("train.jsonl", None, "train_file='.*train.jsonl' does not exist"),
        ("train.jsonl", "{broken", "train_file='.*train.jsonl', line 1: it is no valid JSON"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    files = {"train_file": str(tmp_path / name), "validation_file": write(tmp_path, "v.jsonl", dataset(ROWS))}
    with pytest.raises(ValueError, match=message):
        load_token_data(DataArguments(**files), seed=0)


def test_a_dataset_without_validation_split_can_be_given_one(tmp_path, monkeypatch):
    splits = DatasetDict({"train": with_names(ROWS, NAMES)})
    monkeypatch.setattr("hf_kd_lambda.data.splits.load_dataset", lambda *_, **__: splits)
    with pytest.raises(
        ValueError, match=r"dataset='own' has no validation split, and none can be held out: validation_share=0.1 of 3"
    ):
        load_token_data(DataArguments(dataset="own"), seed=0)


def test_words_may_be_stored_in_large_lists(tmp_path):
    features = Features({"tokens": List(Value("large_string")), "label": List(ClassLabel(names=NAMES))})
    data = Dataset.from_dict({"tokens": [["Ada"]], "label": [[1]]}, features)
    assert load_files(tmp_path, data, data, ".parquet").splits["train"].to_list() == [{"words": ["Ada"], "label": [1]}]
