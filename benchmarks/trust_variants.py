"""Variants of `trust` that were tried: `python -m benchmarks.trust_variants`.

The tasks, regimes and seeds are those of configs/compare_trust.yaml and configs/compare_epochs.yaml, SST-2. The runs
of `trust` there are what the variants are compared with. Needs the extras [quickstart,label-errors], and the files
that `python -m benchmarks.sst2_files` writes. A run that is in benchmarks/trust_variants/results.jsonl is not made
again.

- `without the factor`: λ is κ√(a/b)·β/α, without the factor 1/√(1 − β).
- `without the factor, present predictions`: the student's prediction on an item is also the present one. `trust` uses
  the mean of all passes.
- `first pass`: the student's prediction is that of the first pass over the data.
- `plain losses`: λ is measured from gradients of the losses without the items' weights. These steps, one of eight, are
  also taken without them.
- `true temperature`: the trust is computed from the logits as they were before the regime made them overconfident. No
  temperature that is fitted during training can be better than this one.
- `probe`: the student's prediction is replaced by that of a logistic regression on embeddings of the pretrained
  encoder, cross-validated on the labels of the regime. It shares nothing with the fine-tuned teacher.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from torch import Tensor

from benchmarks.label_errors import FOLDS, embeddings
from hf_kd_lambda.balancing import state
from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.balancing.past_predictions import PastPredictions, mean_logits
from hf_kd_lambda.balancing.reliabilities import ItemTrust, Reliabilities
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import NO_WEIGHTS, ItemWeights
from hf_kd_lambda.studies.comparison.plan import load_comparison
from hf_kd_lambda.studies.comparison.run_results import Cell
from hf_kd_lambda.studies.comparison.runs import TaskRuns
from hf_kd_lambda.trainer import remember_predictions

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_suffix("") / "results.jsonl"
OVERCONFIDENCE = 0.25
"""The temperature of the regime `overconfident_teacher`."""
PRESENT = "without the factor, present predictions"


class WithoutFactor(ClassReliabilities):
    """See the top."""

    ratio = Reliabilities.ratio


class PlainLosses(ClassReliabilities):
    """No weights of items in steps that measure λ."""

    interval = 8
    steps = 0

    def weights(self, *trusts: ItemTrust) -> ItemWeights:
        """See `Reliabilities`."""
        return NO_WEIGHTS if self.steps % self.interval == 0 else super().weights(*trusts)

    def update(self, counts: Tensor) -> None:
        """See `Judge`; called once a step."""
        super().update(counts)
        self.steps += 1


class TrueTemperature(ClassReliabilities):
    """See the top."""

    def judge(
        self, student_logits: Tensor, teacher_logits: Sequence[Tensor], items: ItemLabels
    ) -> tuple[list[ItemTrust], Tensor]:
        """See `ClassReliabilities`."""
        return super().judge(student_logits, [OVERCONFIDENCE * logits for logits in teacher_logits], items)


class Predictions(PastPredictions):
    """The predictions that `trust` judges by; `train` are the training examples."""

    def __init__(self, train: Dataset, *size: Any) -> None:
        super().__init__(*size)
        self.train = train


class Present(Predictions):
    """See the top."""

    def mean(self, rows: Tensor, logits: Tensor) -> Tensor:
        """See `PastPredictions`."""
        return logits


class FirstPass(Predictions):
    """See the top."""

    def mean(self, rows: Tensor, logits: Tensor) -> Tensor:
        """See `PastPredictions`."""
        present, first = super().mean(rows, logits), self.past[rows]
        return torch.where(first[:, -1:] > 0, mean_logits(first), present)

    def end_pass(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """See `PastPredictions`."""
        if not self.past.any():
            super().end_pass(sum_over_ranks)


class Probe(Predictions):
    """See the top."""

    @cached_property
    def logits(self) -> Tensor:
        """`[examples, classes]`."""
        labels, vectors = np.array(self.train["labels"][:]), embeddings(self.train)
        found = cross_val_predict(LogisticRegression(max_iter=400), vectors, labels, cv=FOLDS, method="predict_proba")
        return torch.tensor(found).float().log()

    def mean(self, rows: Tensor, logits: Tensor) -> Tensor:
        """See `PastPredictions`."""
        return self.logits[rows]


JUDGES: dict[str, type[ClassReliabilities]] = {
    "without the factor": WithoutFactor,
    PRESENT: WithoutFactor,
    "plain losses": PlainLosses,
    "true temperature": TrueTemperature,
}
PREDICTIONS: dict[str, type[Predictions]] = {
    PRESENT: Present,
    "first pass": FirstPass,
    "probe": Probe,
}
REGIMES = (
    "both",
    "clean",
    "noisy_labels",
    "spoiled_teacher",
    "class_blind",
    "hard_noise",
    "region",
    "overconfident_teacher",
    "few_labels",
)


class Trial(NamedTuple):
    """A variant in a regime of a comparison."""

    config: str
    regime: str
    variant: str
    seed: int = 0


TRIALS = [
    *(
        Trial(config, regime, "without the factor", seed)
        for config, regime in (("compare_epochs", "both"), *(("compare_trust", regime) for regime in REGIMES))
        for seed in range(3)
    ),
    *(
        Trial(config, regime, PRESENT, seed)
        for config, regime in (("compare_trust", "both"), ("compare_trust", "few_labels"), ("compare_epochs", "both"))
        for seed in range(3)
    ),
    Trial("compare_epochs", "both", "first pass"),
    *(Trial("compare_trust", regime, "plain losses") for regime in ("both", "few_labels")),
    Trial("compare_trust", "overconfident_teacher", "true temperature"),
    *(Trial("compare_trust", regime, "probe") for regime in ("both", "noisy_teacher", "clean")),
]


@contextmanager
def in_place_of_trust(variant: str, train: Dataset) -> Iterator[None]:
    """Trainers that are made here judge by the variant; `train` are their training examples."""
    judge, predictions = JUDGES.get(variant, ClassReliabilities), PREDICTIONS.get(variant, Predictions)
    with (
        patch.object(state, "ClassReliabilities", judge),
        patch.object(remember_predictions, "PastPredictions", partial(predictions, train)),
    ):
        yield


def run(trial: Trial, task: TaskRuns) -> dict[str, Any]:
    """The record of a run of `trust` with the variant in its place."""
    cell = Cell(task.task, trial.regime, "trust", trial.seed)
    with in_place_of_trust(trial.variant, task.supervision(cell).train):
        made = task.run(cell)
    last = made.log[-1]
    kept = {name: last[name] for name in ("lambda", "label_reliability", "teacher_reliability")}
    return {**trial._asdict(), "score": made.score, **kept, "commit": made.commit, "hardware": made.hardware}


def main() -> None:
    """Make the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", help="output_dir of a comparison whose fine-tuned teacher is used")
    options = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = [Trial(*(json.loads(line)[name] for name in Trial._fields)) for line in lines]
    tasks: dict[str, TaskRuns] = {}
    for trial in TRIALS:
        if trial in done:
            continue
        if trial.config not in tasks:
            comparison = load_comparison(ROOT / "configs" / f"{trial.config}.yaml")
            tasks[trial.config] = TaskRuns(comparison.in_folder(options.teachers), "sst2")
        found = run(trial, tasks[trial.config])
        with RESULTS.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(found, flush=True)


if __name__ == "__main__":
    main()
