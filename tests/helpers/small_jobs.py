"""Whole jobs small enough for tests: made-up reviews in files, and a tiny teacher that learns them in a few steps."""

import csv
from itertools import product
from pathlib import Path

from helpers.tiny import save_checkpoint, tiny_bert
from transformers import set_seed

from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.studies.comparison.plan import arguments

WORDS = {"praise": ["best", "good", "great"], "shrug": ["a", "film", "is"], "rant": ["bad", "dull", "worst"]}
STARS = {"praise": 4.5, "shrug": 2.5, "rant": 0.5}


def write_reviews(folder: Path) -> dict[str, str]:
    """Write csv files of reviews, their kind (a name) and stars (a number); return the settings that read them."""
    texts = [(kind, f"{word} {word} {end}") for kind, words in WORDS.items() for word, end in product(words, "abcd")]
    settings = {}
    for split, copies in (("train", 2), ("validation", 1), ("test", 1)):
        path = folder / f"{split}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "kind", "stars"])
            writer.writerows((text, kind, STARS[kind]) for kind, text in texts * copies)
        settings[f"{split}_file"] = str(path)
    return settings | {"text_column": "review", "label_column": "kind"}


def settings(folder: Path, **changed: object) -> dict[str, object]:
    """Settings of a job of seconds: a teacher fine-tuned first, and a student of two of its four layers.

    Args:
        folder: for the files, the teacher and the output.
        changed: settings to add or replace; None removes one.
    """
    set_seed(0)
    return {
        "teacher": save_checkpoint(tiny_bert(num_labels=2), folder / "pretrained"),
        "teacher_finetune": True,
        "teacher_epochs": 6,
        "teacher_learning_rate": 5e-3,
        "student_layers": [0, 3],
        **write_reviews(folder),
        "max_length": 16,
        "output_dir": str(folder / "out"),
        "learning_rate": 2e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 12,
        "per_device_eval_batch_size": 64,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "precision": "fp32",
        "use_cpu": True,
        **changed,
    }


def job(settings: dict[str, object]) -> DistillationJob:
    """The job that the command line starts."""
    return DistillationJob(*parse(arguments(settings)))
