"""From logits of windows to answers: which spans are possible, over which windows, and when a model abstains."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import EvalPrediction

from hf_kd_lambda.tasks.metrics.answers import LONGEST_ANSWER, best_answers, question_metrics

CONTEXT = "aa bb cc dd"


def window(example, first_word, answers=("bb",), context=CONTEXT):
    """[CLS] question [SEP], and two words of the context."""
    starts = [3 * first_word, 3 * first_word + 3]
    return {
        "example": example,
        "context": context,
        "answers": list(answers),
        "answer_mask": [1, 0, 0, 1, 1],
        "char_starts": [-1, -1, -1, *starts],
        "char_ends": [-1, -1, -1, *(start + 2 for start in starts)],
    }


def answers(windows, starts, ends):
    logits = np.array(starts, np.float32), np.array(ends, np.float32)
    found = best_answers(logits, Dataset.from_list(windows))
    hidden_states = np.zeros((len(windows), 2))  # of a model that is set to return them
    assert best_answers((*logits, hidden_states), Dataset.from_list(windows)) == found
    return {example: CONTEXT[answer.start : answer.end] for example, answer in found.items()}


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ([0, 0, 0, 1, 2], [0, 0, 0, 1, 2], "bb"),
        ([0, 0, 0, 2, 1], [0, 0, 0, 1, 2], "aa bb"),
        ([0, 0, 0, 1, 3], [0, 0, 0, 3, 0], "aa"),  # 1 + 3; from bb to aa it would be 6
        ([0, 9, 9, 2, 1], [9, 9, 9, 2, 1], "aa"),  # question and [CLS] are no answers
        ([-5, -9, -9, -7, -8], [-5, -9, -9, -7, -8], "aa"),
    ],
)
def test_the_best_span_of_a_window(start, end, expected):
    assert answers([window(0, 0)], [start], [end]) == {0: expected}


def test_the_best_window_of_a_question_answers_it():
    windows = [window(0, 0), window(1, 0), window(1, 2), window(1, 1)]
    logits = [[0, 0, 0, 1, 0], [0, 0, 0, 2, 1], [0, 0, 0, 1, 4], [0, 0, 0, 3, 1]]
    assert answers(windows, logits, logits) == {0: "aa", 1: "dd"}


def test_padding_is_not_read():
    padded = [[0, 0, 0, 1, 2, 99, 99]]
    assert answers([window(0, 0)], padded, padded) == {0: "bb"}


def test_a_context_without_a_token_has_no_answer():
    empty = {**window(0, 0), "char_starts": [-1] * 5, "char_ends": [-1] * 5, "answer_mask": [1, 0, 0, 0, 0]}
    logits = [[0, 0, 0, 1, 2]] * 2
    assert answers([empty, window(1, 0)], logits, logits) == {0: "", 1: "bb"}


def test_where_questions_are_unanswerable_the_lowest_null_score_decides():
    windows = [window(0, 0), window(0, 2), window(1, 0, answers=())]
    starts = [[9, 0, 0, 1, 0], [1, 0, 0, 2, 0], [2, 0, 0, 1, 0]]
    assert answers(windows, starts, starts) == {0: "cc", 1: ""}  # 0: min(18, 2) < 4; 1: 4 > 2
    windows = [window(0, 0), window(0, 2), window(1, 0)]
    assert answers(windows, starts, starts) == {0: "cc", 1: "aa"}


def test_an_answer_is_not_longer_than_thirty_tokens():
    count = LONGEST_ANSWER + 1
    long = {
        **window(0, 0),
        "answer_mask": [1, 0] + [1] * count,
        "char_starts": [-1, -1, *range(count)],
        "char_ends": [-1, -1, *range(1, count + 1)],
    }
    start, end = np.zeros((2, 1, count + 2), np.float32)
    start[0, 2], end[0, -1], end[0, -2] = 5, 5, 1
    (found,) = best_answers((start, end), Dataset.from_list([long])).values()
    assert found == (6.0, 0, LONGEST_ANSWER)


def test_metrics_are_of_the_windows_that_were_predicted():
    windows = [window(0, 0), window(1, 0, ["aa"]), window(2, 0)]
    logits = np.array([[0, 0, 0, 1, 2], [0, 0, 0, 1, 2]], np.float32)
    metrics = question_metrics(Dataset.from_list(windows))(EvalPrediction((logits, logits), None))
    assert metrics == {"exact_match": 0.5, "f1": 0.5, "score": 0.5}
