"""Exact match and F1 on cases by hand, as the official script of SQuAD 2.0 scores them."""

import pytest

from hf_kd_lambda.tasks.metrics.squad import exact_match, f1, normalised, squad_metrics


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Cat.", "cat"),
        ("an apple, a day", "apple day"),
        ("theatre and an-ode", "theatre and anode"),  # articles are whole words, a hyphen is punctuation
        ("$1,200", "1200"),
        ("a.", ""),
        ("Ünïcode – dash", "ünïcode – dash"),  # of punctuation, ASCII's alone
        ("", ""),
    ],
)
def test_answers_are_normalised(answer, expected):
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "overlap"),
    [
        ("the Denver Broncos", "Denver Broncos.", 1.0, 1.0),
        ("Denver", "Denver Broncos", 0.0, 2 / 3),  # precision 1, recall 1/2
        ("in the year 1990 or 1991", "1990", 0.0, 1 / 3),  # in, year, 1990, or, 1991: 1/5 and 1
        ("to to to", "to be to", 0.0, 2 / 3),  # two words in common, of three each
        ("Carolina", "Denver", 0.0, 0.0),
        ("", "Denver", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("the", "a", 1.0, 1.0),
    ],
)
def test_one_answer(answer, reference, exact, overlap):
    assert exact_match(answer, reference) == exact
    assert f1(answer, reference) == pytest.approx(overlap)
    assert f1(reference, answer) == pytest.approx(overlap)


def test_the_best_reference_counts_and_questions_are_averaged():
    metrics = squad_metrics(["Denver", "the end"], [["Denver Broncos", "denver"], ["beginning", "end of it"]])
    assert metrics == pytest.approx({"exact_match": 0.5, "f1": (1 + 0.5) / 2, "score": 0.75})


def test_unanswerable_questions_ask_for_an_empty_answer():
    metrics = squad_metrics(["", "Denver", "Denver", ""], [[], [], ["Denver Broncos"], ["Denver"]])
    assert metrics == pytest.approx(
        {
            "exact_match": 1 / 4,
            "f1": (1 + 0 + 2 / 3 + 0) / 4,
            "f1_answerable": 1 / 3,
            "f1_unanswerable": 1 / 2,
            "score": (1 + 2 / 3) / 4,
        }
    )


def test_references_without_a_word_do_not_count():
    assert squad_metrics(["the"], [["a", "end"]])["f1"] == 0.0
    assert squad_metrics([""], [["a"]])["f1"] == 1.0
