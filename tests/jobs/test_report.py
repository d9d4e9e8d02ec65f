"""Facts of a job for its card."""

import json
from html.parser import HTMLParser

import pytest
import yaml
from datasets import Dataset, DatasetDict
from PIL import Image

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.report import card_facts, next_steps
from hf_kd_lambda.reports.model_card import model_card
from hf_kd_lambda.reports.page import as_html
from hf_kd_lambda.reports.results import ModelReport
from hf_kd_lambda.reports.run_report import run_page

LABELS = [">5", "<5", "C#", "a|b", "`x`", "<script>alert(1)</script>"]
SETTINGS = {"label_separator": "|", "delimiter": "\t", "text_column": "a\n\n```\n# Heading", "<i>": LABELS}


@pytest.fixture
def facts():
    """Facts of a job whose classes and settings have characters of Markdown and HTML."""
    quality = {
        "examples": 6,
        "labelled": 6,
        "wrong_labels": 0.1,
        "uninformative_teacher": 0.1,
        "more_are_wrong": False,
        "agreements": [],
        "classes": [
            {
                "name": name,
                "labelled": 1,
                "wrong_labels": 0.6 * (name == "a|b"),
                "uninformative_teacher": 0.1,
                "rather": LABELS[0],
            }
            for name in LABELS
        ],
    }
    return card_facts(
        name="student",
        models=ModelArguments(teacher="owner/teacher", student="owner/student", trust_remote_code=True),
        data=DataArguments(train_file="a.csv", label_separator="|"),
        settings={**SETTINGS, "teacher_dir": "teachers"},
        num_processes=1,
        reports=[ModelReport(name, {"score": 0.9}, 1, 1.0, 1.0) for name in ("teacher", "student")],
        log_history=[{"step": 1, "lambda": 0.5, "kd_weight": 0.3}],
        chance=0.5,
        examples={"train": 6},
        loaded=TaskData(DatasetDict(train=Dataset.from_dict({"text": ["a"], "label": [0]})), LABELS, None),
        label_quality=quality,
    )


def test_the_card_names_settings_and_classes_as_the_user_did(facts):
    assert facts.labels == LABELS
    text = model_card(facts).text
    assert "model='path/to/student', trust_remote_code=True)" in text
    *_, before, block, after = text.split("````")
    assert yaml.safe_load(block.removeprefix("yaml\n")) == SETTINGS
    assert "hf-kd-lambda distill student.yaml --output_dir student\n" in text
    assert before.endswith("<details><summary>All settings</summary>\n\n")
    assert after.startswith("\n\n</details>")
    names = "\\>5, \\<5, C\\#, a\\|b, \\`x\\`, \\<script\\>alert(1)\\</script\\>"
    assert f"| labels | {names} |" in before
    assert "most of them labelled a\\|b; the teacher" in before
    assert "| a\\|b | 1 | 60.0% | \\>5 | 10.0% |" in before


class Cells(HTMLParser):
    """Names of the tags of a page, and its texts."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_names_settings_and_classes_as_the_user_did(facts, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "lambda.png")
    suspicious = [{"row": 0, "label": name, "teacher": name, "label_wrong": 0.5} for name in LABELS]
    page = Cells(as_html(run_page(facts, "validation", tmp_path / "lambda.png", suspicious=suspicious)))
    assert page.tags.count("script") == 1, "that of the page"
    assert "i" not in page.tags
    assert {*LABELS, *SETTINGS, json.dumps(LABELS), "|"} <= {*page.texts}
    assert any("most of them labelled a|b; the teacher" in text for text in page.texts)


def test_commands_for_a_finished_student_repeat_what_its_folder_does_not_say(tmp_path):
    labels = {"problem_type": "multi_label_classification", "label_columns": ["joy", "fear"], "max_length": 64}
    _, card, *commands = next_steps(tmp_path, DataArguments(train_file="a.csv", **labels)).splitlines()
    _, evaluate, _, push, _, export = commands
    assert card == f"  {tmp_path / 'README.md'}"
    assert "README.md" not in next_steps(tmp_path, DataArguments(train_file="a.json", problem="question-answering"))
    assert evaluate == f"  hf-kd-lambda evaluate {tmp_path} NEW_EXAMPLES"
    assert f"hf-kd-lambda push {tmp_path}" in push
    data = DataArguments(train_file="a.csv", task="sst2", text_column="review", delimiter=";")
    assert "NEW_EXAMPLES --task sst2 --delimiter ';'\n" in next_steps(tmp_path, data)
    assert f"hf-kd-lambda export {tmp_path}" in export
    assert "export" in next_steps(tmp_path, data)
    of_own_code = next_steps(tmp_path, data, trusts_code=True)
    assert "--delimiter ';' --trust_remote_code" in of_own_code
    assert "export" not in of_own_code
