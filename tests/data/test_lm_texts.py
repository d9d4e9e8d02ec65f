"""What language models learn from: texts, prompts with completions, conversations, and what is refused."""

import json

import pytest
from datasets import Dataset

from hf_kd_lambda.data.arguments import DataArguments, EvaluatedData
from hf_kd_lambda.data.lm_texts import load_texts


def load(folder, train="the film\n\nis good\n", validation="bad\n", suffix="txt", **settings):
    files = {}
    for name, text in (("train", train), ("validation", validation)):
        path = folder / f"{name}.{suffix}"
        path.write_text(text)
        files[f"{name}_file"] = str(path)
    return load_texts(DataArguments(problem="text-generation", **files, **settings), seed=0)


@pytest.mark.parametrize(
    ("suffix", "train", "validation"),
    [
        ("txt", "the film\n \nNone\n", "bad\n"),
        ("csv", "text,x\nthe film,1\n  ,2\nNone,3\n", "text,x\nbad,1\n"),
        ("jsonl", '{"text": "the film"}\n{"text": ""}\n{"text": "None"}\n', '{"text": "bad"}\n'),
    ],
)
def test_texts_of_files_but_for_empty_ones(tmp_path, suffix, train, validation):
    data = load(tmp_path, train, validation, suffix)
    assert {name: split["text"][:] for name, split in data.splits.items()} == {
        "train": ["the film", "None"],
        "validation": ["bad"],
    }


def test_another_column_and_fewer_texts(tmp_path):
    train = "".join(f'{{"body": "{word}", "text": 3}}\n' for word in "abcdefgh")
    data = load(tmp_path, train, train, "json", text_column="body", max_train_samples=3, max_eval_samples=2)
    assert len(data.splits["train"]) == 3
    chosen = set(data.splits["validation"]["text"][:])
    assert len(chosen) == 2
    assert chosen < set("abcdefgh")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"suffix": "md"}, "is not one of .txt, .csv"),
        ({"train": "\n \n"}, "the train split has no text"),
        ({"text_column": "body"}, "train_file=.* has no column 'body', only text: set text_column"),
        (
            {"suffix": "json", "train": '{"text": 3}\n', "validation": '{"text": "a"}\n'},
            "train_file=.*, line, item or question 1: column 'text' holds 3, which is no text",
        ),
    ],
)
def test_what_are_no_texts_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **given)


# --- completions and conversations

PAIRS = [{"prompt": "is it good?", "completion": "yes"}, {"prompt": "", "completion": "no"}]
CHATS = [
    {"messages": [{"role": "user", "content": "good?"}, {"role": "assistant", "content": "yes"}]},
    {"messages": [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]},
]


def load_rows(folder, rows, suffix="jsonl", **settings):
    path = folder / f"rows.{suffix}"
    if suffix == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    files = dict.fromkeys(("train_file", "validation_file"), str(path))
    return load_texts(DataArguments(problem="text-generation", **files, **settings), seed=0).splits["train"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_columns_tell_what_the_examples_are(tmp_path, suffix):
    pairs = [{"text": row["prompt"], "text_pair": row["completion"]} for row in PAIRS]
    assert load_rows(tmp_path, PAIRS, suffix).to_list() == pairs
    assert load_rows(tmp_path, CHATS, suffix).to_list() == CHATS
    with_text = [{**row, "text": "a"} for row in PAIRS]
    assert load_rows(tmp_path, with_text, suffix).to_list() == [{"text": "a"}] * 2


def test_a_csv_of_completions(tmp_path):
    (tmp_path / "a.csv").write_text("completion,prompt\nyes,is it?\n ,no?\n")
    files = dict.fromkeys(("train_file", "validation_file"), str(tmp_path / "a.csv"))
    data = load_texts(DataArguments(problem="text-generation", **files), seed=0)
    assert data.splits["train"].to_list() == [{"text": "is it?", "text_pair": "yes"}]  # the other one is empty


def test_a_folder_of_conversations(tmp_path):
    folder = tmp_path / "chats"
    folder.mkdir()
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, CHATS)))
    data = load_texts(DataArguments(problem="text-generation", dataset=str(folder)), seed=0)
    assert data.splits["train"].to_list() == CHATS


@pytest.mark.parametrize("rows", [PAIRS, CHATS])
@pytest.mark.parametrize("is_folder", [False, True])
def test_columns_tell_it_also_without_training_examples(tmp_path, rows, is_folder):
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    where = {"dataset": str(tmp_path)} if is_folder else {"test_file": str(tmp_path / "test.jsonl")}
    data = load_texts(EvaluatedData(problem="text-generation", **where), seed=0)
    texts = [{"text": row["prompt"], "text_pair": row["completion"]} for row in PAIRS]
    assert data.splits["test"].to_list() == (CHATS if rows is CHATS else texts)


def test_prompts_and_completions_by_other_names(tmp_path):
    rows = [{"question": "good?", "answer": "yes", "text": "a"}]
    names = {"text_column": "question", "text_pair_column": "answer"}
    assert load_rows(tmp_path, rows, **names).to_list() == [{"text": "good?", "text_pair": "yes"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([PAIRS[0], {"prompt": None, "completion": "a"}], "line 2: column 'prompt' holds None, which is no text"),
        ([PAIRS[0], {"prompt": "a"}], "line 2: column 'completion' holds None, which is no text"),
        ([{"prompt": "a", "completion": " "}], "the train split has no text"),
        ([CHATS[0], {"messages": None}], "line 2: column 'messages' holds None, which is no list of messages"),
        ([CHATS[0], {"messages": []}], r"line 2: column 'messages' holds \[\], which is no conversation in which"),
        (
            [CHATS[0], {"messages": CHATS[0]["messages"][:1]}],
            "line 2: .* which is no conversation in",
        ),
        ([{"messages": [{"role": "assistant", "content": " "}]}], "line 1: .* which is no conversation in which"),
        ([{"messages": [{"role": "assistant"}]}], "line 1: .* which is no object with role and content"),
        ([{"messages": [{"role": "assistant", "content": ["a"]}]}], "line 1: .*which is no text"),
        ([{"messages": "hello"}], "line 1: column 'messages' holds 'hello', which is no list"),
        ([{"prompt": CHATS[0]["messages"], "completion": "a"}], "line 1: column 'prompt' holds .* which is no text"),
        ([{"question": "a"}], "the columns question, and needs .* layouts: text; prompt and completion; messages"),
        ([{"prompt": "a"}], "the columns prompt, and needs those of one of these layouts: text; prompt and"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        load_rows(tmp_path, rows)
