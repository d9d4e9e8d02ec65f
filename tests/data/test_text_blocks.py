"""Texts from files, joined and cut into blocks."""

import pytest
from helpers.tiny import tiny_tokenizer
from helpers.tiny_lm import text_tokenizer

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.text_blocks import cut_blocks, load_texts


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
    assert data.splits["validation"]["text"][:] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"suffix": "md"}, "is none of .txt, .csv"),
        ({"train": "\n \n"}, "the train split has no text"),
        ({"text_column": "body"}, "train_file=.* has no column 'body', only text: set text_column"),
        ({"task": "sst2"}, "task='sst2' is a classification"),
        (
            {"suffix": "json", "train": '{"text": 3}\n', "validation": '{"text": "a"}\n'},
            "train_file=.*, line or item 1: column 'text' holds 3, which is no text",
        ),
    ],
)
def test_what_are_no_texts_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **given)


def test_blocks_are_the_joined_texts(tmp_path):
    data = load(tmp_path, "".join(f"the film {word}\n" for word in ["good", "bad", "dull"]))
    tokenizer = text_tokenizer()
    blocks = cut_blocks(data, tokenizer, 4)["train"]
    joined = [token for block in blocks["input_ids"][:] for token in block]
    expected = [token for text in data.splits["train"]["text"] for token in tokenizer(text).input_ids]
    assert joined == expected
    assert expected.count(tokenizer.eos_token_id) == 3
    assert [len(block) for block in blocks["input_ids"][:]] == [4, 4, 4, 3]
    for block, labels in zip(blocks["input_ids"][:], blocks["labels"][:], strict=True):
        assert labels == [-100, *block[1:]]


def test_an_end_of_text_is_added_where_the_tokenizer_adds_none(tmp_path):
    tokenizer = tiny_tokenizer()  # whose end of text is its separator
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.eos_token = "[MASK]"
    blocks = cut_blocks(load(tmp_path), tokenizer, 64)["train"]
    words = tokenizer.convert_tokens_to_ids(["the", "film", "[MASK]", "is", "good", "[MASK]"])
    assert blocks["input_ids"][:] == [words]


def test_the_tokenizers_limit_holds_and_a_lone_token_is_left_out(tmp_path):
    tokenizer = text_tokenizer()
    tokenizer.model_max_length = 3
    blocks = cut_blocks(load(tmp_path, "the\n", "the film is good\n"), tokenizer, 64)
    assert [len(block) for block in blocks["train"]["input_ids"][:]] == [3]
    assert [len(block) for block in blocks["validation"]["input_ids"][:]] == [3, 3]
