"""SQuAD's original json, whose articles have paragraphs and these questions, as one row for each question."""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

_FIELDS = ("text", "answer_start")


def is_squad(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether the content of a json file is SQuAD's: an object with a list `data`, whose entries are not rows."""
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, list):
        return False
    return not data or any(not isinstance(entry, Mapping) or "paragraphs" in entry for entry in data)


def squad_rows(file: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The columns `id`, `question`, `context` and `answers`, as the Hub has them (Rajpurkar et al. 2016 and 2018).

    Args:
        file: `{"data": [{"paragraphs": [{"context": …, "qas": [{"question": …, "answers": [{"text": …,
            "answer_start": …}]}]}]}]}`. A question without `answers` has no label; one with an empty list is
            unanswerable, from `is_impossible` where it is given.

    Raises:
        ValueError: a part is missing, or `is_impossible` contradicts the answers.
    """
    for article in file["data"]:
        for paragraph in _list(article, "paragraphs"):
            for question in _list(paragraph, "qas"):
                text = _part(question, "question")
                answers = None if question.get("answers") is None else _list(question, "answers")
                _check_impossible(question.get("is_impossible"), text, answers)
                yield {
                    "id": question.get("id"),
                    "question": text,
                    "context": _part(paragraph, "context"),
                    "answers": None if answers is None else _columns(answers),
                }


def _columns(answers: Sequence[Any]) -> dict[str, list[Any]]:
    return {name: [_part(answer, name) for answer in answers] for name in _FIELDS}


def _check_impossible(is_impossible: Any, question: Any, answers: Sequence[Any] | None) -> None:
    if answers is not None and is_impossible in (True, False) and is_impossible == bool(answers):
        raise ValueError(
            f"the question {reprlib.repr(question)} has is_impossible={is_impossible} and {len(answers)} answers."
        )


def _list(value: Any, name: str) -> list[Any]:
    part = _part(value, name)
    if not isinstance(part, list):
        raise ValueError(f"{name!r} is {reprlib.repr(part)}, which is no list.")
    return part


def _part(value: Any, name: str) -> Any:
    if not isinstance(value, Mapping) or name not in value:
        raise ValueError(f"{reprlib.repr(value)} has no {name!r}, which SQuAD's json has there.")
    return value[name]
