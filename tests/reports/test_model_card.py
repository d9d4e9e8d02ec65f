"""The card from plain data: its metadata as the Hub reads it, and its text."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load

from hf_kd_lambda.reports.model_card import CITATION, CardFacts, Origin, model_card, without_folders
from hf_kd_lambda.reports.results import ModelReport

TEACHER, STUDENT = Origin("google-bert/bert-base-uncased", True), Origin("google/bert_uncased_L-4_H-512_A-8", True)
SCORES = {"accuracy": 0.872123, "f1": 0.5, "score": 0.6860615, "teacher_agreement": 0.93}
FACTS = CardFacts(
    name="tester/sst2-student",
    teachers=[TEACHER],
    student=STUDENT,
    teacher_finetuned=True,
    datasets=[Origin("nyu-mll/glue", True)],
    dataset_config="sst2",
    split="validation",
    reports=[
        ModelReport("teacher", {"accuracy": 0.9, "score": 0.9}, 109_000_000, 438.0, 12.3),
        ModelReport("student with KD", SCORES, 28_800_000, 115.1, 3.1),
    ],
    metrics=SCORES,
    log_history=[{"step": 1, "lambda": 0.5, "kd_weight": 0.3}, {"step": 2, "lambda": 2.0, "kd_weight": 0.6}],
    settings={"task": "sst2", "lambda_rule": "adaptive", "temperature": 20.0, "lr_scheduler_kwargs": {}, "cut": None},
    command="hf-kd-lambda distill student.yaml",
    labels=["negative", "positive"],
    examples={"train": 900, "validation": 872},
    versions={"torch": "2.13.0", "transformers": "5.24.0"},
)


def saved(facts: CardFacts, folder: Path) -> ModelCard:
    model_card(facts).save(folder / "README.md")
    return ModelCard.load(folder / "README.md")


def test_the_metadata_name_origins_task_dataset_and_metrics(tmp_path):
    saved(FACTS, tmp_path)
    metadata = metadata_load(tmp_path / "README.md")
    index = metadata.pop("model-index")
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["knowledge-distillation", "hf-kd-lambda"],
        "base_model": [STUDENT.name, TEACHER.name],
        "base_model_relation": "finetune",
        "datasets": ["nyu-mll/glue"],
        "metrics": ["accuracy", "f1"],
    }
    assert index == [
        {
            "name": "tester/sst2-student",
            "results": [
                {
                    "task": {"type": "text-classification"},
                    "dataset": {
                        "name": "nyu-mll/glue sst2",
                        "type": "nyu-mll/glue",
                        "config": "sst2",
                        "split": "validation",
                    },
                    "metrics": [
                        {"type": "accuracy", "value": 0.8721, "name": "accuracy"},
                        {"type": "f1", "value": 0.5, "name": "f1"},
                    ],
                }
            ],
        }
    ]


def test_the_metadata_survive_a_second_reading(tmp_path):
    first = saved(FACTS, tmp_path)
    first.save(tmp_path / "again.md")
    second = ModelCard.load(tmp_path / "again.md")
    assert second.data.to_dict() == first.data.to_dict()
    assert second.data.eval_results == model_card(FACTS).data.eval_results
    assert {result.metric_type: result.metric_value for result in second.data.eval_results} == {
        "accuracy": 0.8721,
        "f1": 0.5,
    }
    assert second.text == first.text


def test_what_is_not_on_the_hub_is_named_in_the_text_alone(tmp_path):
    local = Origin("/home/someone/models/bert-mine", False)
    card = saved(
        replace(FACTS, teachers=[local], student=None, datasets=[Origin("/data/reviews.csv", False)]), tmp_path
    )
    metadata = metadata_load(tmp_path / "README.md")
    assert not metadata.keys() & {"base_model", "base_model_relation", "datasets", "model-index"}
    assert metadata["metrics"] == ["accuracy", "f1"]
    assert "`bert-mine` (not on the Hub)" in card.text
    assert "`reviews.csv` (not on the Hub)" in card.text
    assert "/home" not in card.content
    assert "/data" not in card.content


def test_settings_name_no_folders_of_this_machine(tmp_path):
    teachers = ["/home/alice/a", "/home/alice/b", "owner/c"]
    settings = {
        "train_file": "/home/alice/train.csv",
        "teacher": teachers,
        "teacher_weights": dict.fromkeys(teachers, 2.0),
        "kd_losses": {"own": {"files": [["/home/alice/x.pt"]]}},
    }
    text = saved(replace(FACTS, settings=settings), tmp_path).text
    assert "alice" not in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0]) == {
        "train_file": "train.csv",
        "teacher": ["a", "b", "owner/c"],
        "teacher_weights": {"a": 2.0, "b": 2.0, "owner/c": 2.0},
        "kd_losses": {"own": {"files": [["x.pt"]]}},
    }
    assert settings["teacher"] == teachers, "only the shown settings are shortened"


@pytest.mark.parametrize("value", [None, True, 0.5, "owner/name", "data/train.csv", [], {}])
def test_other_settings_are_shown_as_they_are(value):
    assert without_folders({"setting": value}) == {"setting": value}


def test_columns_and_separators_are_no_paths():
    settings = {"label_separator": "/", "delimiter": "/", "label_column": "/kind", "label_columns": ["/a", "/b"]}
    assert without_folders(settings) == settings


def test_a_student_of_its_teachers_layers_has_one_base(tmp_path):
    card = saved(replace(FACTS, student=None, layers=[0, 5, 11]), tmp_path)
    assert card.data.base_model == [TEACHER.name]
    assert "layers 0, 5, 11 of the teacher" in card.text


def test_examples_held_out_of_train_are_no_split_of_the_hub(tmp_path):
    assert saved(FACTS, tmp_path).data.eval_results
    card = saved(replace(FACTS, held_out=True), tmp_path)
    assert card.data.eval_results is None
    assert "On examples held out of the training split" in card.text
    assert "On the validation split" not in card.text


def test_a_dataset_with_files_of_ones_own_has_no_place_on_a_leaderboard(tmp_path):
    card = saved(replace(FACTS, datasets=[*FACTS.datasets, Origin("validation.csv", False)]), tmp_path)
    assert card.data.eval_results is None
    assert card.data.datasets == ["nyu-mll/glue"]


def test_there_is_a_license_only_if_the_user_gave_one(tmp_path):
    assert saved(FACTS, tmp_path).data.license is None
    assert "license" not in metadata_load(tmp_path / "README.md")
    assert saved(replace(FACTS, license="mit", language="en", tags=["sentiment"]), tmp_path).data.license == "mit"
    assert metadata_load(tmp_path / "README.md")["tags"][-1] == "sentiment"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_stays_out_of_the_metadata(tmp_path, value):
    card = saved(replace(FACTS, metrics={"accuracy": value, "f1": 0.5}), tmp_path)
    assert [result.metric_type for result in card.data.eval_results] == ["f1"]


def test_the_text_compares_explains_and_repeats(tmp_path):
    text = saved(FACTS, tmp_path).text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ") and " ms" not in line]
    table = [[cell.strip() for cell in row] for row in rows if len(row) > 2]
    assert {len(row) for row in table} == {len(table[0])}
    student = dict(zip(table[0], table[-1], strict=True))
    assert student["model"] == "student with KD"
    assert student["parameters (M)"] == "28.8"
    assert student["size (MB)"] == "115.1"
    assert student["latency (ms)"] == "3.1"
    assert student["of teacher's score (%)"] == "76.2"
    assert "(lambda.png)" in text, "relative, so that it shows wherever the card lies"
    assert "λ went from 0.5 to 2" in text
    assert FACTS.command in text
    assert "| labels | negative, positive |" in text
    assert "On the validation split (872 examples):" in text
    assert "Here score is the mean of accuracy and f1." in text
    assert "<details><summary>All settings</summary>" in text
    assert "classify = pipeline('text-classification', model='tester/sst2-student')" in text
    assert "print(classify('A text to classify.'))" in text
    assert "torch 2.13.0, transformers 5.24.0" in text
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert settings == {"task": "sst2", "lambda_rule": "adaptive", "temperature": 20.0}


def test_a_student_with_code_of_its_own_is_shown_as_it_is_loaded(tmp_path):
    text = saved(replace(FACTS, own_code=True), tmp_path).text
    assert "pipeline('text-classification', model='tester/sst2-student', trust_remote_code=True)" in text


def test_a_card_of_nothing_but_a_name_claims_nothing(tmp_path):
    card = saved(CardFacts("bare"), tmp_path)
    assert "# bare" in card.text
    for title in ("## Results", "## λ", "## Training", "| teacher |", "| dataset |"):
        assert title not in card.text
    assert metadata_load(tmp_path / "README.md").keys() == {"library_name", "pipeline_tag", "tags"}


def test_the_citation_is_that_of_the_repository():
    cited = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,) = cited["references"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    for part in (cited["title"], cited["authors"][0]["name"], paper["title"], authors, str(paper["year"])):
        assert f"{{{part}}}" in CITATION
    assert paper["url"] in CITATION
    assert paper["identifiers"][0]["value"] in CITATION


HOSTILE = "x\n---\nlicense: mit\n---\n# y `z` | <script>alert(1)</script> ``` [a](b)"


def test_names_that_users_give_cannot_change_the_card(tmp_path):
    hostile, harmless = (
        replace(
            FACTS,
            name=name,
            teachers=[Origin(name, False)],
            student=None,
            datasets=[Origin(name, False)],
            dataset_config=name,
            split=name,
            labels=[name],
            reports=[],
            metrics={name: 0.5},
            settings={"lambda_rule": name, "task": name, "column": name + "\n```\n# z"},
            command=f"run {name}",
            versions={name: name},
            log_history=[{"step": 1, "lambda": 0.5, f"lambda/{name}": 0.5}],
        )
        for name in (HOSTILE, "plain")
    )
    expected = saved(harmless, tmp_path)
    card = saved(hostile, tmp_path)
    assert card.data.license is None
    assert card.data.to_dict().keys() == expected.data.to_dict().keys()
    outside = without_code(card.text)
    assert "<script" not in outside.replace("\\<script", "")
    headings = [
        [line for line in without_code(page.text).splitlines() if line.startswith("#")] for page in (card, expected)
    ]
    assert headings[0][1:] == headings[1][1:]
    assert len(headings[0]) == len(headings[1])
    rows = [
        [row.replace("\\|", "").count("|") for row in page.text.splitlines() if row.startswith("|")]
        for page in (card, expected)
    ]
    assert rows[0] == rows[1]


def without_code(text):
    """The lines outside fenced blocks of code, as CommonMark reads them, without their code spans."""
    outside, fence = [], ""
    for line in text.splitlines():
        ticks = re.match("`*", line)[0]
        if fence:
            if len(ticks) >= len(fence) and not line.strip("`"):
                fence = ""
        elif len(ticks) >= 3 and "`" not in line[len(ticks) :]:
            fence = ticks
        else:
            outside.append(re.sub(r"(?<![\\`])(`+)(?!`).+?(?<!`)\1(?!`)", "", line))
    assert not fence, "every block of code ends"
    return "\n".join(outside)
