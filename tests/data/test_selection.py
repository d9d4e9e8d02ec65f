"""Which examples are held out, and how many are taken."""

from collections import Counter

import pytest
from datasets import Dataset

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.selection import held_out_rows, select_examples
from hf_kd_lambda.data.text_blocks import load_texts
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
