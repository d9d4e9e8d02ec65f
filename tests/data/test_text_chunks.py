"""Texts from files, joined and split into chunks."""

from helpers.tiny import tiny_tokenizer
from helpers.tiny_lm import text_tokenizer

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.lm_texts import load_texts
from hf_kd_lambda.data.text_chunks import make_text_chunks


def load(folder, train="the film\n\nis good\n", validation="bad\n"):
    files = {}
    for name, text in (("train", train), ("validation", validation)):
        path = folder / f"{name}.txt"
        path.write_text(text)
        files[f"{name}_file"] = str(path)
    return load_texts(DataArguments(problem="text-generation", **files), seed=0)


def test_blocks_are_the_joined_texts(tmp_path, caplog):
    data = load(tmp_path, "".join(f"the film {word}\n" for word in ["good", "bad", "dull"]))
    tokenizer = text_tokenizer()
    chunks = make_text_chunks(data, tokenizer, 4)["train"]
    joined = [token for chunk in chunks["input_ids"][:] for token in chunk]
    expected = [token for text in data.splits["train"]["text"] for token in tokenizer(text).input_ids]
    assert joined == expected
    assert expected.count(tokenizer.eos_token_id) == 3
    assert "train: 3 texts are cut into 4 chunks of 4 tokens, which are the examples from here on" in caplog.text
    assert [len(chunk) for chunk in chunks["input_ids"][:]] == [4, 4, 4, 3]
    for chunk, labels in zip(chunks["input_ids"][:], chunks["labels"][:], strict=True):
        assert labels == [-100, *chunk[1:]]


def test_an_end_of_text_is_added_where_the_tokenizer_adds_none(tmp_path):
    tokenizer = tiny_tokenizer()  # whose end of text is its separator
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.eos_token = "[MASK]"
    chunks = make_text_chunks(load(tmp_path), tokenizer, 64)["train"]
    words = tokenizer.convert_tokens_to_ids(["the", "film", "[MASK]", "is", "good", "[MASK]"])
    assert chunks["input_ids"][:] == [words]


def test_the_tokenizers_limit_holds_and_a_lone_token_is_left_out(tmp_path):
    tokenizer = text_tokenizer()
    tokenizer.model_max_length = 3
    chunks = make_text_chunks(load(tmp_path, "the\n", "the film is good\n"), tokenizer, 64)
    assert [len(chunk) for chunk in chunks["train"]["input_ids"][:]] == [3]
    assert [len(chunk) for chunk in chunks["validation"]["input_ids"][:]] == [3, 3]
