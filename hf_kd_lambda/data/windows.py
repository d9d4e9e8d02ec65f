"""Windows of tokens: a question with as much of a long context as a model reads, each overlapping the next."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK

logger = logging.get_logger(__name__)

CONTEXT = 1  # the second sequence, after the question
OUTSIDE = -1
"""Character of a token that is not in the context."""
_TEXTS = {"context": "text_pair", "answers": "answers"}


class Span(NamedTuple):
    """A part of a text: its first character, and the one after its last."""

    start: int
    end: int


def cut_windows(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int, doc_stride: int | None, has_token_types: bool
) -> DatasetDict:
    """Replace questions and contexts by windows of tokens, and the first answer by its tokens.

    As transformers' run_qa example does. In a window that does not hold the whole answer, start and end are the token
    `[CLS]`, as for an unanswerable question (Devlin et al. 2019, section 4.3).

    Args:
        data: see `load_questions`.
        tokenizer: a fast one, of student and teacher.
        max_length: tokens of a window; the tokenizer's own limit holds where it is lower.
        doc_stride: tokens of the context that two windows share; None for a third of a window.
        has_token_types: whether a model reads `token_type_ids`.

    Returns:
        For each window inputs, labels and `answer_mask`; the characters of its tokens in the context, `char_starts`
        and `char_ends`, -1 for other tokens; the row of its `example`, its `context` and `answers`.

    Raises:
        ValueError: a question leaves no room for the context.
    """
    length = min(max_length, tokenizer.model_max_length)
    stride = length // 3 if doc_stride is None else doc_stride

    def encode(batch: Mapping[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        questions = [question.strip() for question in batch["text"]]  # spaces alone could fill a window
        _check_room(questions, tokenizer, length, stride)
        tokens = tokenizer(
            questions,
            batch["text_pair"],
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=has_token_types,
        )
        examples = tokens.pop("overflow_to_sample_mapping")
        answers = [_first_answer(*pair) for pair in zip(batch["answers"], batch["answer_starts"], strict=True)]
        offsets = tokens.pop("offset_mapping")
        windows = [
            _window(tokens, index, offsets[index], answers[example], tokenizer.cls_token_id)
            for index, example in enumerate(examples)
        ]
        return {
            **tokens,
            **{name: [window[name] for window in windows] for name in windows[0]},
            **{name: [batch[column][example] for example in examples] for name, column in _TEXTS.items()},
            "example": [rows[example] for example in examples],
        }

    columns = data.splits["train"].column_names
    windows = data.splits.map(encode, batched=True, with_indices=True, remove_columns=columns, desc="Tokenising")
    for name, split in windows.items():
        logger.warning(_described(name, data.splits[name], len(split), length))
    return windows


def _described(name: str, questions: Dataset, windows: int, length: int) -> str:
    unanswerable = sum(not answers for answers in questions["answers"][:])
    of_them = f", {unanswerable} unanswerable" if unanswerable else ""
    return f"{name}: {len(questions)} questions{of_them}, in {windows} windows of up to {length} tokens"


def _check_room(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, stride: int) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for question in questions:
        tokens = len(tokenizer(question, add_special_tokens=False, verbose=False).input_ids)
        if length - special - tokens <= stride:
            raise ValueError(
                f"max_length={length}: the question {reprlib.repr(question)} of {tokens} tokens leaves "
                f"{length - special - tokens} for the context, of which two windows share {stride} (doc_stride): "
                "raise max_length, or lower doc_stride."
            )


def _first_answer(texts: Sequence[str], starts: Sequence[int]) -> Span | None:
    return Span(starts[0], starts[0] + len(texts[0])) if texts else None


def _window(
    tokens: BatchEncoding,
    index: int,
    offsets: Sequence[tuple[int, int]],
    answer: Span | None,
    cls_token_id: int | None,
) -> dict[str, Any]:
    """Labels, mask and characters of a window."""
    in_context = [sequence == CONTEXT for sequence in tokens.sequence_ids(index)]
    ids = tokens["input_ids"][index]
    no_answer = ids.index(cls_token_id) if cls_token_id in ids else 0
    starts, ends = (
        [offset[side] if inside else OUTSIDE for offset, inside in zip(offsets, in_context, strict=True)]
        for side in (0, 1)
    )
    first, last = _tokens_of(answer, starts, ends) or (no_answer, no_answer)
    return {
        "start_positions": first,
        "end_positions": last,
        ANSWER_MASK: [int(inside or position == no_answer) for position, inside in enumerate(in_context)],
        "char_starts": starts,
        "char_ends": ends,
    }


def _tokens_of(answer: Span | None, starts: Sequence[int], ends: Sequence[int]) -> tuple[int, int] | None:
    """The first and the last token of an answer; None without one, and where the window does not hold all of it."""
    context = [position for position, start in enumerate(starts) if start != OUTSIDE]
    if answer is None or not context or starts[context[0]] > answer.start or ends[context[-1]] < answer.end:
        return None
    first = max(position for position in context if starts[position] <= answer.start)
    last = min(position for position in context if ends[position] >= answer.end)
    return first, max(first, last)
