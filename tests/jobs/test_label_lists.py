"""Whole jobs on several labels a text, and on soft labels."""

import csv
import json
from itertools import product

import numpy as np
import pytest
from helpers.small_jobs import WORDS, job, settings
from transformers import AutoModelForSequenceClassification

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.evaluation import evaluate_checkpoints

KINDS = list(WORDS)


def write(folder, rows_of):
    """Reviews of two words, each of a kind; the labels of a review from its two kinds."""
    files = {}
    pairs = [(a, b) for a, b in product(KINDS, KINDS)]
    texts = [(a, b, f"{x} {y}") for a, b in pairs for x, y in product(WORDS[a], WORDS[b])]
    for split, copies in (("train", 1), ("validation", 1), ("test", 1)):
        path = folder / f"{split}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review", *KINDS])
            for row, (first, second, text) in enumerate(texts * copies):
                writer.writerow([text, *rows_of(first, second, row, split)])
        files[f"{split}_file"] = str(path)
    return files


def several(first, second, row, split):
    """1 for both kinds; one is unknown in some rows of train, all are in others."""
    labels = ["" if split == "train" and row % 9 == 0 else int(kind in (first, second)) for kind in KINDS]
    return ["", *labels[1:]] if split == "train" and row % 4 == 0 else labels


def shares(first, second, row, split):
    """The kind that comes first in KINDS has the largest share."""
    weights = [(3 - index) * (kind in (first, second)) for index, kind in enumerate(KINDS)]
    return [round(weight / sum(weights), 4) for weight in weights]


@pytest.mark.parametrize(
    ("problem_type", "rows_of", "names"),
    [
        ("multi_label_classification", several, {"f1_micro", "f1_macro", "score", "teacher_agreement"}),
        ("soft_labels", shares, {"accuracy", "f1_macro", "score", "teacher_agreement"}),
    ],
)
def test_a_job_learns_lists_of_labels(tmp_path, problem_type, rows_of, names):
    given = settings(tmp_path, teacher_epochs=12, label_columns=KINDS, problem_type=problem_type, label_column=None)
    given |= write(tmp_path, rows_of) | {"student_without_kd": True, "num_train_epochs": 6}
    run = job(given)
    run.check()
    teacher, without, student = run.run()
    for report in (teacher, without, student):
        assert names - {"teacher_agreement"} <= report.metrics.keys()
        assert report.metrics["score"] > 0.8
    assert student.metrics["teacher_agreement"] > 0.8
    out = tmp_path / "out"
    config = AutoModelForSequenceClassification.from_pretrained(out).config
    kind = problem_type if problem_type == "multi_label_classification" else "single_label_classification"
    assert config.problem_type == kind
    assert list(config.id2label.values()) == KINDS
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "kd_loss" in entry]
    assert len(steps) > 5
    assert all(np.isfinite(entry["task_loss"]) and entry["kd_loss"] > 0 for entry in steps)

    data = {name: given[name] for name in ("train_file", "validation_file", "test_file", "text_column")}
    args = DataArguments(**data, label_columns=KINDS, problem_type=problem_type)
    _, (again,), _ = evaluate_checkpoints({"model": str(out)}, args, None, 16)
    assert again.metrics["score"] == pytest.approx(student.metrics["score"])
