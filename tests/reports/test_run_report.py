"""report.html of a run, from plain facts."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pages import read_page
from PIL import Image
from transformers import IntervalStrategy

from hf_kd_lambda.reports.class_scores import class_scores
from hf_kd_lambda.reports.model_card import FEW_LABELS, WITHOUT_LABEL, CardFacts, model_card, run_notes
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


def test_small_differences_of_two_that_name_the_same_class_are_left_out(tmp_path):
    student, teacher = torch.tensor([[0.1, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.1], [0.0, 1.4]])
    (only,) = most_differing(["a", "b"], [0, 1], student, teacher, NAMES)
    assert only.text == "a"
    assert 0 < only.difference < 0.1
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    found = most_differing(["b"], [1], student[1:], teacher[1:], NAMES)
    page = as_html(run_page(FACTS, "validation", tmp_path / "lambda.png", found))
    assert "On all examples of the validation split, they name the same class, and differ by 0.1 at most." in page


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
    assert "Examples of the validation split." in page
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
        assert "The teacher scores 80.0%, and a constant guess scores 80.0%" in text


def test_the_page_has_the_scores_of_each_class(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    classes = class_scores(np.eye(2)[[0, 1, 1, 1]], np.array([0, 0, 1, 1]), NAMES)
    facts = replace(FACTS, reports=[replace(report, classes=classes) for report in FACTS.reports])
    page = as_html(run_page(facts, "validation", tmp_path / "lambda.png"))
    _, section = page.split("<h2>Scores of the student by class</h2>")
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", section.partition("</table>")[0])
    assert cells == ["bad", "100.0", "50.0", "66.7", "2", "good", "66.7", "100.0", "80.0", "2"]


@pytest.mark.parametrize(
    ("rule", "train", "unlabelled", "noted"),
    [
        *(("trust", 299, 0, True), ("evidence", 1000, 900, True)),
        *(("trust", 300, 0, False), ("trust", 50, 50, False), ("fixed", 20, 0, False)),
    ],
)
def test_few_labels_are_noted(rule, train, unlabelled, noted):
    examples = {"train": train, WITHOUT_LABEL: unlabelled}
    notes = " ".join(run_notes(replace(FACTS, examples=examples, settings={"lambda_rule": rule})))
    assert (f"here {train - unlabelled}, the estimates of lambda_rule: {rule} are inaccurate" in notes) == noted
    several = {"lambda_rule": rule, "problem_type": "multi_label_classification"}
    assert "are inaccurate" not in " ".join(run_notes(replace(FACTS, examples=examples, settings=several)))
    page = (Path(__file__).parents[2] / "docs" / "guides" / "own_texts.md").read_text(encoding="utf-8")
    assert f"fewer than {FEW_LABELS} labelled examples" in page


def test_a_run_without_texts_has_no_table_of_them(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    bare = as_html(run_page(replace(FACTS, log_history=[], label_quality=None), "validation", tmp_path / "lambda.png"))
    assert "differ most" not in bare
