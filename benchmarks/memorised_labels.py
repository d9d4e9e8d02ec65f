"""What teacher and student memorise of wrong labels: `python -m benchmarks.memorised_labels`.

2,000 tweets for training and 600 for validation, with wrong labels in both, any other of the three classes. MiniLM is
fine-tuned on these labels as the teacher, then distilled into two of its layers for 3 epochs. The figures are those of
the label quality report. One run each. Needs the extras [quickstart,label-errors].
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.label_errors import (
    OF_STUDENT,
    OF_TEACHER,
    distillation,
    fine_tuned,
    new_teacher,
    texts_of,
    with_errors,
)
from hf_kd_lambda.reports.label_quality import quality_summary
from hf_kd_lambda.trainer.label_quality import label_quality

RESULTS = Path(__file__).with_suffix("") / "results.jsonl"
TRAINING, VALIDATION = 2000, 600
RUNS = ((0.3, 2), (0.3, 6), (0.0, 2))
"""Share of the labels that are changed, and epochs of the teacher."""


def run(rate: float, teacher_epochs: int) -> dict[str, Any]:
    """What the label quality report says."""
    texts = texts_of("tweets", "")
    examples = with_errors(texts.judged.select(range(TRAINING + VALIDATION)), len(texts.names), "symmetric", rate)
    training, validation = examples.select(range(TRAINING)), examples.select(range(TRAINING, TRAINING + VALIDATION))
    teacher = fine_tuned(new_teacher(texts), training, {**OF_TEACHER, "num_train_epochs": teacher_epochs}).model
    with tempfile.TemporaryDirectory() as folder:
        trainer = distillation(folder, teacher, OF_STUDENT, train_dataset=training, eval_dataset=validation)
        trainer.train()
        summary = quality_summary(label_quality(trainer, texts.names))
    found = {name: summary[name] for name in ("wrong_labels", "agreements")}
    return {"rate": rate, "teacher_epochs": teacher_epochs, **found}


def main() -> None:
    """Make all runs."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(run(*settings)) + "\n" for settings in RUNS))


if __name__ == "__main__":
    main()
