"""report.html of a run, from plain facts."""

from dataclasses import replace
from html import unescape

import pytest
import torch
from helpers.pages import read_page
from PIL import Image
from transformers import IntervalStrategy

from hf_kd_lambda.reports.model_card import CardFacts, model_card
from hf_kd_lambda.reports.page import as_html
from hf_kd_lambda.reports.results import ModelReport
from hf_kd_lambda.reports.run_report import LONGEST_TEXT, most_differing, run_page

NAMES = ["bad", "good"]
STUDENT = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 1.0]])
TEACHER = torch.tensor([[0.0, 0.0], [0.0, 9.0], [0.0, 3.0]])


OTHERS = {"eval_strategy": IntervalStrategy.EPOCH, "freeze_embeddings": False, "alpha": 0.5, "columns": ["a", "b"]}


def reports():
    metrics = {"accuracy": 0.9, "f1_macro": 0.7, "score": 0.8}
    return [
        ModelReport("teacher", metrics, 1_000_000, 4.0, 2.0, standard_error=0.02),
        ModelReport("student with KD", metrics | {"teacher_agreement": 0.95}, 500_000, 2.0, 1.0, standard_error=0.03),
    ]


FACTS = CardFacts(
    "mine",
    reports=reports(),
    labels=NAMES,
    log_history=[{"step": 1, "lambda": 0.5, "kd_weight": 0.3}, {"step": 2, "lambda": 2.0, "kd_weight": 0.6}],
    examples={"train": 90, "validation": 30},
    label_quality={
        "examples": 90,
        "labelled": 90,
        "label_reliability": 0.9,
        "teacher_reliability": 0.8,
        "wrong_labels": 0.05,
        "uninformative_teacher": 0.1,
        "more_are_wrong": False,
        "agreements": [],
        "classes": [
            {"name": name, "labelled": 45, "wrong_labels": 0.05, "uninformative_teacher": 0.1, "rather": None}
            for name in NAMES
        ],
    },
    settings={"teacher": "/home/someone/bert", "lambda_rule": "evidence", "lora": None} | OTHERS,
)
SUSPICIOUS = [
    {
        "row": 7,
        "label": "bad",
        "teacher": "good",
        "label_wrong": 0.875,
        "label_trust": 0.1,
        "teacher_trust": 1,
        "text": "fine",
    }
]


def test_examples_are_ordered_by_their_difference():
    first, second = most_differing(["a", "b" * 999, "c"], [0, 1, -100], STUDENT, TEACHER, NAMES)
    assert (first.label, first.student, first.teacher) == ("good", "bad (100%)", "good (100%)")
    assert len(first.text) == LONGEST_TEXT + 2
    assert (second.text, second.label, second.teacher) == ("c", "none", "good (95%)")
    expected = (TEACHER[2].softmax(-1) - STUDENT[2].softmax(-1)).abs().sum() / 2
    assert second.difference == pytest.approx(expected.item())


def test_numbers_of_a_regression_are_shown_as_they_are():
    (only,) = most_differing(["a"], [2.5], torch.tensor([[1.25]]), torch.tensor([[3.0]]), None)
    assert (only.label, only.student, only.teacher, only.difference) == ("2.5", "1.25", "3", 1.75)


@pytest.fixture
def page(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    differing = most_differing(["<b>one</b>", "two", "three"], [0, 1, 1], STUDENT, TEACHER, NAMES)
    return as_html(run_page(FACTS, "validation", tmp_path / "lambda.png", differing, SUSPICIOUS))


def test_the_page_is_one_file_that_says_what_the_scores_are(page):
    read = read_page(page)
    assert read.titles == [
        "Scores, size and speed",
        "What λ did",
        "Where student and teacher differ most",
        "Labels that look wrong",
    ]
    assert read.links == []
    assert "On the validation split, 30 examples." in page
    assert "Score is the mean of accuracy and f1_macro." in page
    assert "differences of less than 6.0 points may be noise" in page
    assert "λ went from 0.5 to 2" in page
    assert "data:image/png;base64," in page
    assert "About 5% of the labels look wrong" in page
    assert ">0.88</td>" in page
    assert ">probability</button>" in page
    assert "row 0 is line 2 of a csv file" in page


def test_settings_are_shown_as_in_a_settings_file(page):
    for value in ("epoch", "false", "0.5", '["a", "b"]'):
        assert f">{value}</td>" in unescape(page)


def test_texts_cannot_change_the_page_and_folders_are_left_out(page):
    assert "<b>one" not in page
    assert "/home/someone" not in page


def test_a_run_whose_labels_look_right_has_no_table_of_them(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    _, section = as_html(run_page(FACTS, "validation", tmp_path / "lambda.png")).split(
        "<h2>Labels that look wrong</h2>"
    )
    assert "No single label looks wrong." in section.partition("<table>")[0]
    assert "csv" not in section


def test_a_teacher_that_guesses_is_named_in_the_page_and_the_card(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    facts = replace(FACTS, chance=0.8)
    for text in (as_html(run_page(facts, "validation", tmp_path / "lambda.png")), model_card(facts).text):
        assert "The teacher scores 0.800, and a constant guess scores 0.800" in text


def test_a_run_without_texts_has_no_table_of_them(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    bare = as_html(run_page(replace(FACTS, log_history=[], label_quality=None), "validation", tmp_path / "lambda.png"))
    assert "differ most" not in bare
