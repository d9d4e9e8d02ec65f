"""Prompts with completions, and conversations: only the assistant's turns are learned, by both losses.

All other tokens have the label -100, at which neither loss has an item.
"""

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from datasets import DatasetDict, Features, List, Value
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from hf_kd_lambda.data.split_report import CUT, report_splits
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.text_chunks import end_of_text
from hf_kd_lambda.losses.functional import IGNORED

logger = logging.get_logger(__name__)

ASSISTANT = "assistant"
_MARKS_ASSISTANT = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TOKENS = {name: List(Value("int32")) for name in ("input_ids", "labels")}
_FEATURES = Features({**_TOKENS, CUT: Value("bool")})

Message = Mapping[str, str]


class Part(NamedTuple):
    """A part of a text that is learned: its first character, and the one after its last."""

    start: int
    end: int


def encode_completions(data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int) -> DatasetDict:
    """Replace prompts and completions, or conversations, by `input_ids` and `labels`, one example each.

    Args:
        data: with the columns `text` and `text_pair`, or `messages`.
        tokenizer: a fast one, of student and teacher.
        max_length: tokens that are kept of an example; the tokenizer's own limit holds where it is lower.

    Raises:
        ValueError: see `completion_tokens` and `chat_tokens`; or no example of a split keeps a token to learn.
    """
    length = min(max_length, tokenizer.model_max_length)

    def tokens_of(row: Mapping[str, Any]) -> dict[str, list[int]]:
        if "messages" in data.columns:
            return chat_tokens(tokenizer, row["messages"])
        return completion_tokens(tokenizer, row["text"], row["text_pair"])

    def encode(row: Mapping[str, Any]) -> dict[str, Any]:
        tokens = tokens_of(row)
        cut = len(tokens["input_ids"]) > length
        return {name: values[:length] for name, values in tokens.items()} | {CUT: cut}

    encoded = data.splits.map(encode, remove_columns=data.columns, features=_FEATURES, desc="Tokenising")
    report_splits(data.splits, None, {name: sum(split[CUT][:]) for name, split in encoded.items()}, length)
    for name, split in encoded.items():
        kept = split.filter(lambda labels: any(label != IGNORED for label in labels), input_columns="labels")
        if len(kept) == 0:
            raise ValueError(
                f"max_length={length}: no example of the {name} split keeps a token of what is to be learned, as all "
                "before it is longer: raise max_length."
            )
        if left_out := len(split) - len(kept):
            logger.warning(
                f"{left_out} examples of the {name} split keep no token of what is to be learned within "
                f"max_length={length} and are left out: raise max_length to learn from them."
            )
        encoded[name] = kept
    return encoded.remove_columns(CUT)


def completion_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a prompt with its completion, of which the latter and an end of text are learned.

    A token that is of both belongs to the completion.

    Args:
        tokenizer: a fast one.
        prompt, completion: joined as they are.

    Raises:
        ValueError: the tokenizer has no character offsets.
    """
    tokens = _tokens(tokenizer, prompt + completion, [Part(len(prompt), len(prompt + completion))], True)
    end = end_of_text(tokenizer)
    if end is not None:
        ids, labels = (values[:-1] if tokens["input_ids"][-1] == end else values for values in tokens.values())
        tokens = {"input_ids": [*ids, end], "labels": [*labels, end]}
    return tokens


def chat_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a conversation, by the tokenizer's chat template; the assistant's turns are learned.

    `{% generation %}` in a template marks the assistant's parts. Without it, they are found: a turn begins after the
    generation prompt (`add_generation_prompt`), and ends with the template's text after its content.

    Args:
        tokenizer: a fast one with a chat template.
        messages: with `role` and `content`; other fields are not read.

    Raises:
        ValueError: the tokenizer has no chat template, or no character offsets; the template
            refuses the conversation, or changes it so that the assistant's turns are not found.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, and the examples are messages: take a "
            "model for chats, or add its chat_template.jinja."
        )
    messages = [{name: message[name] for name in ("role", "content")} for message in messages]
    try:
        if _MARKS_ASSISTANT.search(str(tokenizer.chat_template)):
            return _marked_tokens(tokenizer, messages)
        text = _rendered(tokenizer, messages)
        return _tokens(tokenizer, text, _assistant_parts(tokenizer, messages, text), False)
    except TemplateError as error:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} refuses {reprlib.repr(messages)}: {error}"
        ) from error


def _marked_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> dict[str, list[int]]:
    """Tokens of a template that marks the assistant's."""
    tokens = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    return _with_labels(tokens["input_ids"], map(bool, tokens["assistant_masks"]))


def _assistant_parts(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str) -> list[Part]:
    """The assistant's turns in the text of a conversation, without generation prompts.

    Raises:
        ValueError: a turn is not found, as the template changes it, or what is before it, once others follow.
    """
    parts = []
    for index, message in enumerate(messages):
        content = message["content"].strip()  # as many templates do
        if message["role"] != ASSISTANT or not content:
            continue
        request = _rendered(tokenizer, messages[:index], add_generation_prompt=True) if index else ""
        place = text.find(content, len(request))
        if place < 0 or not text.startswith(request):
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} asks for {reprlib.repr(content)} after another text "
                "than the conversation has, so that the assistant's turns are not found: mark them in the template by "
                "{% generation %}."
            )
        alone = _rendered(tokenizer, messages[: index + 1])
        after = alone[alone.find(content, len(request)) + len(content) :]
        closing = _common_start(text[place + len(content) :], after).rstrip()
        parts.append(Part(len(request), place + len(content) + len(closing)))
    return parts


def _common_start(one: str, other: str) -> str:
    return "".join(first for first, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool = False
) -> str:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert isinstance(text, str), "one conversation"
    return text


def _tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, parts: Sequence[Part], add_special_tokens: bool
) -> dict[str, list[int]]:
    """Tokens of a text, of which those of some parts are learned."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r}, a {type(tokenizer).__name__}, has no character "
            "offsets: completions and messages need a checkpoint with a tokenizer.json."
        )
    tokens = tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False)
    is_learned = (
        any(start < part.end and end > part.start for part in parts) and start < end
        for start, end in tokens["offset_mapping"]
    )
    return _with_labels(tokens["input_ids"], is_learned)


def _with_labels(ids: Sequence[int], is_learned: Iterable[bool]) -> dict[str, list[int]]:
    """The tokens, and as labels those that are learned; the first is predicted by nothing."""
    labels = [token if learned else IGNORED for token, learned in zip(ids, is_learned, strict=True)]
    return {"input_ids": [*ids], "labels": [IGNORED, *labels[1:]]}
