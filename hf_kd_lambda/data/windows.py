"""Windows of tokens: a question with as much of a long context as a model reads, each overlapping the next."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils import logging

from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.losses.functional.labels import UNLABELLED
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK

logger = logging.get_logger(__name__)

CONTEXT = 1  # the second sequence, after the question
OUTSIDE = -1
"""Character of a token that is not in the context."""


Label = Mapping[str, Any]
"""Answers to a question, see `load_questions`."""


def cut_windows(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int, doc_stride: int | None, has_token_types: bool
) -> DatasetDict:
    """Replace questions and contexts by windows of tokens, and the first answer by its tokens.

    As transformers' run_qa example does. In a window that does not hold the whole answer, start and end are the token
    `[CLS]`, as for an unanswerable question (Devlin et al. 2019, section 4.3); for a question without a label -101.

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
        offsets = tokens.pop("offset_mapping")
        windows = [
            _window(tokens, index, offsets[index], batch["label"][example], tokenizer.cls_token_id)
            for index, example in enumerate(examples)
        ]
        return {
            **tokens,
            **{name: [window[name] for window in windows] for name in windows[0]},
            "example": [rows[example] for example in examples],
            "context": [batch["text_pair"][example] for example in examples],
            "answers": [_texts(batch["label"][example]) for example in examples],
        }

    windows = data.splits.map(encode, batched=True, with_indices=True, remove_columns=data.columns, desc="Tokenising")
    for name, split in windows.items():
        logger.warning(_described(name, data.splits[name], len(split), length))
    return windows


def _described(name: str, questions: Dataset, windows: int, length: int) -> str:
    labels = questions["label"][:]
    counts = {
        "unanswerable": sum(label is not None and not label["text"] for label in labels),
        "without a label": labels.count(None),
    }
    of_them = "".join(f", {count} {kind}" for kind, count in counts.items() if count)
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


def _texts(label: Label | None) -> list[str]:
    return [] if label is None else label["text"]


def _window(
    tokens: BatchEncoding,
    index: int,
    offsets: Sequence[tuple[int, int]],
    label: Label | None,
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
    first, last = (
        (UNLABELLED, UNLABELLED) if label is None else _tokens_of(label, starts, ends) or (no_answer, no_answer)
    )
    return {
        "start_positions": first,
        "end_positions": last,
        ANSWER_MASK: [int(inside or position == no_answer) for position, inside in enumerate(in_context)],
        "char_starts": starts,
        "char_ends": ends,
    }


def _tokens_of(label: Label, starts: Sequence[int], ends: Sequence[int]) -> tuple[int, int] | None:
    """First and last token of the first answer; None without one, and where the window does not hold all of it."""
    context = [position for position, start in enumerate(starts) if start != OUTSIDE]
    if not label["text"] or not context:
        return None
    answer, start = label["text"][0], label["answer_start"][0]
    start, end = start + len(answer) - len(answer.lstrip()), start + len(answer.rstrip())  # no token holds the spaces
    if starts[context[0]] > start or ends[context[-1]] < end:
        return None
    first = max(position for position in context if starts[position] <= start)
    last = min(position for position in context if ends[position] >= end)
    return first, max(first, last)
