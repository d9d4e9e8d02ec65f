"""From logits of windows to an answer for each question, as in the scripts of BERT and transformers' run_qa."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers import EvalPrediction

from hf_kd_lambda.data.windows import OUTSIDE
from hf_kd_lambda.losses.functional.spans import ANSWER_MASK
from hf_kd_lambda.tasks.metrics.squad import squad_metrics

BEST_TOKENS = 20  # starts, and ends, of which pairs are compared
LONGEST_ANSWER = 30  # tokens
_COLUMNS = [ANSWER_MASK, "char_starts", "char_ends", "example"]


class Answer(NamedTuple):
    """A span of a context, by the characters of its start and its end, and the sum of both logits."""

    score: float
    start: int
    end: int


NO_ANSWER = Answer(-np.inf, 0, 0)


def question_metrics(windows: Dataset) -> Callable[[EvalPrediction], dict[str, float]]:
    """Exact match and F1 of the answers that logits of these windows, in their order, give; see `squad_metrics`.

    Args:
        windows: see `cut_windows`. If there are fewer predictions, they are for the first windows.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        evaluated = windows.select(range(len(prediction.predictions[0])))
        answers = best_answers(prediction.predictions, evaluated)
        texts = {row["example"]: row for row in evaluated.select_columns(["example", "context", "answers"])}
        found = [texts[example]["context"][answer.start : answer.end] for example, answer in answers.items()]
        return squad_metrics(found, [texts[example]["answers"] for example in answers])

    return compute


def best_answers(logits: Sequence[np.ndarray], windows: Dataset) -> dict[int, Answer]:
    """The best span of each example over its windows, by the example's row.

    Where some of the questions are unanswerable, an answer is empty if the lowest score of `[CLS]` over the windows
    is higher than the best span's (Devlin et al. 2019, section 4.3, with a threshold of 0).

    Args:
        logits: logits of starts and ends, `[windows, longest]`; a model that is set to return more has these first.
        windows: see `cut_windows`, padded at the right.
    """
    may_abstain = any(not answers for answers in windows["answers"][:])
    best: dict[int, Answer] = {}
    abstention: dict[int, float] = {}
    for start, end, window in zip(*logits[:2], _rows(windows), strict=True):
        example = int(window["example"])
        answer, of_none = _best_of_window(start, end, window)
        best[example] = max(best.get(example, NO_ANSWER), answer)
        abstention[example] = min(abstention.get(example, np.inf), of_none)
    if not may_abstain:
        return best
    return {row: NO_ANSWER if abstention[row] > answer.score else answer for row, answer in best.items()}


def _rows(windows: Dataset) -> Iterator[Mapping[str, Any]]:
    """Arrays of a window at a time."""
    yield from windows.select_columns(_COLUMNS).with_format("numpy")


def _best_of_window(start: np.ndarray, end: np.ndarray, window: Mapping[str, Any]) -> tuple[Answer, float]:
    """The best span of the context, and the score of none."""
    in_context = window["char_starts"] != OUTSIDE
    none = int(np.flatnonzero(window[ANSWER_MASK].astype(bool) & ~in_context)[0])
    context = np.flatnonzero(in_context)
    abstention = float(start[none] + end[none])
    if not len(context):  # of characters that the tokenizer drops, such as zero-width spaces
        return NO_ANSWER, abstention
    starts, ends = (context[np.argsort(-logits[context], kind="stable")[:BEST_TOKENS]] for logits in (start, end))
    lengths = ends[None, :] - starts[:, None] + 1
    scores = np.where((lengths > 0) & (lengths <= LONGEST_ANSWER), start[starts][:, None] + end[ends], -np.inf)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    if np.isneginf(scores[row, column]):
        return NO_ANSWER, abstention
    first, last = window["char_starts"][starts[row]], window["char_ends"][ends[column]]
    return Answer(float(scores[row, column]), int(first), int(last)), abstention
