"""What `trust` would score if it knew what is right: `python -m benchmarks.known_truth [--glue DIR]`.

r_label and r_teacher are 1 where the regime has left the label or the teacher's output as it was, otherwise 0, and α
and β are their means. All else is as in `trust`, λ too, so that the difference to `trust` is what a better estimate
could gain. Tasks, regimes and seeds are those of configs/compare_trust.yaml, and its runs' packages and files are
needed. A run that is in benchmarks/known_truth/results.jsonl is not made again.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_kd_lambda.balancing import state
from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.balancing.number_trust import NumberReliabilities
from hf_kd_lambda.balancing.reliabilities import ItemTrust, Reliabilities
from hf_kd_lambda.data.columns import TEACHER_LOGITS
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import ItemLabels
from hf_kd_lambda.losses.objective import ItemWeights
from hf_kd_lambda.studies.comparison.plan import load_comparison
from hf_kd_lambda.studies.comparison.run_results import Cell
from hf_kd_lambda.studies.comparison.runs import TaskRuns

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_suffix("") / "results.jsonl"
GROUPS = (
    *(("sst2", "both"), ("stsb", "both"), ("tweets", "both"), ("mrpc", "both"), ("bbc", "both")),
    *(("sst2", "spoiled_teacher"), ("sst2", "region")),
)
SEEDS = range(3)


class Given(NamedTuple):
    """What an item learns from: its key, as no two examples have the same label and logits."""

    label: float
    logits: tuple[float, ...]


class Truth(NamedTuple):
    """Whether the label and the teacher's output of every training example are right."""

    of_items: dict[Given, tuple[bool, bool]]

    @property
    def means(self) -> np.ndarray:
        """α and β, `[2]`."""
        return np.mean(list(self.of_items.values()), axis=0)


def truth_of(train: Dataset, clean: Dataset) -> Truth:
    """What a regime has left as it was.

    Args:
        train: the training examples as the regime has them.
        clean: the same examples before.
    """
    pairs = zip(_given(train), _given(clean), strict=True)
    return Truth({now: (now.label == was.label, now.logits == was.logits) for now, was in pairs})


def _given(examples: Dataset) -> Iterator[Given]:
    columns = examples.select_columns(["labels", TEACHER_LOGITS]).with_format("numpy")[:]
    for label, logits in zip(columns["labels"], columns[TEACHER_LOGITS].astype("float32"), strict=True):
        yield _key(float(np.float32(label)), logits.tolist())


def _key(label: float, logits: list[float]) -> Given:
    return Given(label, tuple(logits))


class KnownTruth(Reliabilities):
    """See the top; a class of `Reliabilities` that follows in the order of bases gives the factor of λ."""

    truth: Truth

    @property
    def alpha(self) -> Tensor:
        """α, a scalar."""
        return torch.tensor(self.truth.means[0], dtype=torch.float32)

    @property
    def beta(self) -> Tensor:
        """β, a scalar."""
        return torch.tensor(self.truth.means[1], dtype=torch.float32)

    def observe(
        self, student_logits: Tensor, teacher: TeacherBatch, items: ItemLabels
    ) -> tuple[ItemWeights, Tensor | None]:
        """See `Judge`; nothing is counted."""
        given = zip(items.task.float().tolist(), teacher.logits.float().tolist(), strict=True)
        known = torch.tensor([self.truth.of_items[_key(*item)] for item in given], dtype=torch.float32)
        return self.weights(ItemTrust(*known.unbind(-1))), None


@contextmanager
def in_place_of_trust(truth: Truth) -> Iterator[None]:
    """Trainers that are made here know the truth."""
    of_classes = type("KnownClasses", (KnownTruth, ClassReliabilities), {"truth": truth})
    of_numbers = type("KnownNumbers", (KnownTruth, NumberReliabilities), {"truth": truth})
    with patch.object(state, "ClassReliabilities", of_classes), patch.object(state, "NumberReliabilities", of_numbers):
        yield


def run(task: TaskRuns, regime: str, seed: int) -> dict[str, Any]:
    """The record of a run that knows the truth."""
    cell = Cell(task.task, regime, "trust", seed)
    with in_place_of_trust(truth_of(task.supervision(cell).train, task.examples[0])):
        made = task.run(cell)
    kept = {"score": made.score, "lambda": made.log[-1]["lambda"], "commit": made.commit, "hardware": made.hardware}
    return {"task": task.task, "regime": regime, "seed": seed, **kept}


def main() -> None:
    """Make the runs that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", metavar="DIR", help="folder that replaces nyu-mll/glue of the Hub")
    parser.add_argument("--teachers", help="output_dir of a comparison whose fine-tuned teachers are used")
    options = parser.parse_args()
    RESULTS.parent.mkdir(exist_ok=True)
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    done = {(made["task"], made["regime"], made["seed"]) for made in found}
    comparison = load_comparison(ROOT / "configs" / "compare_trust.yaml", options.glue).in_folder(options.teachers)
    tasks: dict[str, TaskRuns] = {}
    for (task, regime), seed in itertools.product(GROUPS, SEEDS):
        if (task, regime, seed) in done:
            continue
        if task not in tasks:
            tasks[task] = TaskRuns(comparison, task)
        made = run(tasks[task], regime, seed)
        with RESULTS.open("a") as file:
            file.write(json.dumps(made) + "\n")
        print(made, flush=True)


if __name__ == "__main__":
    main()
