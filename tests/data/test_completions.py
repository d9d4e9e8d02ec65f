"""Which tokens of prompts with completions and of conversations are learned."""

import pytest
from datasets import Dataset, DatasetDict
from helpers.tiny import tiny_tokenizer
from helpers.tiny_lm import text_tokenizer
from transformers import CanineTokenizer, GPT2TokenizerFast

from hf_kd_lambda.data.completions import chat_tokens, completion_tokens, encode_completions
from hf_kd_lambda.data.task_data import TaskData

ASKED = [
    {"role": "system", "content": "be sad"},
    {"role": "user", "content": "is it good?"},
    {"role": "assistant", "content": " very good "},
    {"role": "user", "content": "the film?"},
    {"role": "assistant", "content": "dull"},
]
PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}[SEP]\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}"
    "{%- generation -%}{{ m['content'] | trim }}{% endgeneration %}[SEP]{% else %}{{ m['content'] }}[SEP]{% endif %}"
    "{% endfor %}"
)
# A thought that earlier turns do not keep.
THINKING = (
    "{% for m in messages %}{{ m['role'] }}: {% if loop.last and m['role'] == 'assistant' %}[MASK]{% endif %}"
    "{{ m['content'] | trim }}[SEP]{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def tokenizer_of(template):
    tokenizer = text_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def learned(tokens, tokenizer=None):
    """The tokens with a label, which must be the same, as words."""
    assert all(label in (-100, token) for token, label in zip(tokens["input_ids"], tokens["labels"], strict=True))
    assert tokens["labels"][0] == -100
    ids = [label for label in tokens["labels"] if label != -100]
    return (tokenizer or tiny_tokenizer()).convert_ids_to_tokens(ids)


# --- prompts with completions


def test_the_completion_and_its_end_are_learned():
    tokens = completion_tokens(text_tokenizer(), "is it good? ", "very good")
    assert tiny_tokenizer().convert_ids_to_tokens(tokens["input_ids"])[0] == "[CLS]"
    assert learned(tokens) == ["very", "good", "[SEP]"]


def test_a_tokenizer_that_adds_no_end_gets_one():
    tokenizer = text_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    tokens = completion_tokens(tokenizer, "is it ", "good")
    assert tiny_tokenizer().convert_ids_to_tokens(tokens["input_ids"]) == ["is", "it", "good", "[SEP]"]
    assert learned(tokens) == ["good", "[SEP]"]
    assert learned(completion_tokens(tokenizer, "", "it is")) == ["is", "[SEP]"]  # nothing predicts the first token


def test_a_token_of_both_is_the_completions():
    vocabulary = {token: i for i, token in enumerate(["a", "b", "c", "ab", "<|endoftext|>"])}
    tokenizer = GPT2TokenizerFast(vocab=vocabulary, merges=[("a", "b")])
    tokens = completion_tokens(tokenizer, "ca", "bc")
    assert learned(tokens, tokenizer) == ["ab", "c", "<|endoftext|>"]


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ValueError, match="a CanineTokenizer, has no character offsets"):
        completion_tokens(CanineTokenizer(), "a", "b")


# --- conversations


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (PLAIN, ["very", "good", "[SEP]", "dull", "[SEP]"]),
        (MARKED, ["very", "good", "dull"]),
        (THINKING, ["very", "good", "[SEP]", "[MASK]", "dull", "[SEP]"]),
    ],
    ids=["plain", "marked", "thinking"],
)
def test_the_assistants_turns_are_learned(template, expected):
    assert learned(chat_tokens(tokenizer_of(template), ASKED)) == expected


def test_the_tokens_are_those_of_the_template():
    tokenizer = tokenizer_of(PLAIN)
    expected = tokenizer.apply_chat_template(ASKED, return_dict=True)["input_ids"]
    assert chat_tokens(tokenizer, ASKED)["input_ids"] == expected


def test_a_first_turn_of_the_assistant_is_learned():
    assert "dull" in learned(chat_tokens(tokenizer_of(PLAIN), ASKED[4:]))


def test_other_fields_of_a_message_are_not_read():
    template = PLAIN.replace("{{ m['role'] }}", "{{ m['name'] }}{{ m['role'] }}")
    messages = [{**message, "name": "bad"} for message in ASKED]
    assert "bad" not in tiny_tokenizer().decode(chat_tokens(tokenizer_of(template), messages)["input_ids"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template, and the examples are messages: take a model for chats, or add"),
        ("{{ raise_exception('roles must alternate') }}", "refuses .*: roles must alternate"),
        ("{% for m in messages %}{{ m['content'] if loop.last }}{% endfor %}", "asks for 'very good' after another"),
        (PLAIN + "[MASK]", "asks for 'very good' after another text than the conversation has"),
    ],
)
def test_templates_that_cannot_be_learned_from_are_refused(template, message):
    with pytest.raises(ValueError, match=message):
        chat_tokens(tokenizer_of(template), ASKED)


# --- splits


def split_of(*pairs):
    rows = [{"text": prompt, "text_pair": completion} for prompt, completion in pairs]
    return TaskData(DatasetDict({"train": Dataset.from_list(rows)}), None, None)


def test_examples_that_keep_nothing_to_learn_are_counted_and_left_out(caplog):
    rows = [("is it good?", "very good"), ("is it very good?", "it is"), ("is it?", "it is")]
    data = split_of(*rows)
    encoded = encode_completions(data, text_tokenizer(), 6)["train"]  # [CLS], and five more tokens
    assert [learned(row) for row in encoded] == [["very"], ["it", "is"]]
    assert "train: 3 examples, 3 truncated to 6 tokens" in caplog.text
    assert "1 examples of the train split keep no token of what is to be learned within max_length=6" in caplog.text
    assert set(encoded.column_names) == {"input_ids", "labels"}


def test_nothing_left_to_learn_is_refused():
    with pytest.raises(ValueError, match="max_length=5: no example of the train split keeps a token"):
        encode_completions(split_of(("is it good?", "very good")), text_tokenizer(), 5)


def test_a_split_of_conversations():
    data = TaskData(DatasetDict({"train": Dataset.from_list([{"messages": ASKED}])}), None, None)
    (row,) = encode_completions(data, tokenizer_of(MARKED), 64)["train"]
    assert row == chat_tokens(tokenizer_of(MARKED), ASKED)
