"""How often λ has to be measured: `python -m benchmarks.interval --data GLUE --output DIR`.

Trains a student at intervals K of 1, 2, 4, 8 and 16 steps on SST-2 and on the tweets of the quickstart, for several
seeds, and reports the score and the difference of λ from that of K = 1 with the same seed. It also replays other
schedules of measurements on the Gram matrices of the runs with K = 1.
"""

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from transformers import set_seed

from hf_kd_lambda.balancing.state import Measurement
from hf_kd_lambda.data.texts import GLUE_TASKS
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.trainer.build_lambda import lambda_kind, lambda_state
from hf_kd_lambda.trainer.config import DistillationConfig

INTERVALS = (1, 2, 4, 8, 16)
CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = {
    "sst2": ["--max_train_samples", "8000", "--num_train_epochs", "3"],
    "quickstart": [],
}
RULE = "adaptive"  # depends on Gram matrices alone, so it can be replayed


def train(job: DistillationJob, seed: int, interval: int) -> dict[str, Any]:
    """One student at one interval.

    Returns:
        Its score on the validation split, and for each step λ and the last measured Gram matrix (a, b, c).
    """
    set_seed(seed)
    teacher = job.load_teacher()
    config: DistillationConfig = dataclasses.replace(
        cast(Any, job.config),
        seed=seed,
        lambda_interval=interval,
        output_dir=str(job.folder / f"{seed}-{interval}"),
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = job.make_trainer(teacher, job.load_student(teacher), config)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "lambda" in entry]
    return {
        "score": trainer.evaluate()["eval_score"],
        "lambda": [entry["lambda"] for entry in steps],
        "gram": [_gram(entry) for entry in steps],
    }


def _gram(entry: dict[str, float]) -> tuple[float, float, float]:
    task, kd = entry["grad_norm_task"], entry["grad_norm_kd"]
    return task**2, kd**2, entry["grad_cosine"] * task * kd


class Replay(NamedTuple):
    """λ of each step, and the share of measuring steps."""

    lambdas: list[float]
    share: float


def error(found: Sequence[float], expected: Sequence[float]) -> float:
    """Mean of |log λ − log λ'| over the steps."""
    return statistics.fmean(abs(math.log(a / b)) for a, b in zip(found, expected, strict=True))


Measures = Callable[[int, Sequence[float]], bool]
"""Whether a step measures, given its number and λ of the steps before it."""


def every(interval: int) -> Measures:
    """Each K-th step."""
    return lambda step, lambdas: step % interval == 0


def dense_start(interval: int, dense: int = 20) -> Measures:
    """All of the first `dense` steps, then each K-th."""
    return lambda step, lambdas: step < dense or step % interval == 0


class WhileMoving:
    """Twice as often after a measurement that moved log λ by more than a threshold, else half as often."""

    def __init__(self, threshold: float, longest: int = 16) -> None:
        self.threshold, self.longest = threshold, longest
        self.interval, self.next = 1, 0

    def __call__(self, step: int, lambdas: Sequence[float]) -> bool:
        """See `Measures`."""
        if step < self.next:
            return False
        if step > 1:
            before = lambdas[max(0, len(lambdas) - 1 - self.interval)]
            moved = abs(math.log(lambdas[-1] / before)) > self.threshold
            self.interval = max(1, self.interval // 2) if moved else min(self.longest, self.interval * 2)
        self.next = step + self.interval
        return True


SCHEDULES: dict[str, Callable[[], Measures]] = {
    **{f"every {interval}": partial(every, interval) for interval in INTERVALS},
    **{f"first 20, then every {interval}": partial(dense_start, interval) for interval in (8, 16)},
    **{f"while λ moves by {threshold}": partial(WhileMoving, threshold) for threshold in (0.02, 0.05, 0.1, 0.2)},
}


def replay(grams: Sequence[Sequence[float]], config: DistillationConfig, measures: Measures) -> Replay:
    """λ if only some of the steps had measured."""
    state = lambda_state(config, lambda_kind(config))
    lambdas: list[float] = []
    measured = 0
    for step, entries in enumerate(grams):
        if measures(step, lambdas):
            gram = torch.tensor(entries)
            state.update(Measurement(Gram(*gram), losses=torch.ones(2), norms=gram[:2]))
            measured += 1
        lambdas.append(state.lambda_.item())
    return Replay(lambdas, measured / len(grams))


def table(folder: Path, seeds: int) -> str:
    """Markdown of one task: scores and λ at each interval, and λ of replayed schedules."""
    runs = {
        (seed, interval): json.loads((folder / f"{seed}-{interval}.json").read_text())
        for seed in range(seeds)
        for interval in INTERVALS
    }
    lines = ["| K | score, mean (each) | mean abs. change of log λ against K = 1 |", "|---|---|---|"]
    for interval in INTERVALS:
        scores = [100 * runs[seed, interval]["score"] for seed in range(seeds)]
        errors = [error(runs[seed, interval]["lambda"], runs[seed, 1]["lambda"]) for seed in range(seeds)]
        listed = ", ".join(f"{score:.1f}" for score in scores)
        lines.append(f"| {interval} | {statistics.fmean(scores):.2f} ({listed}) | {statistics.fmean(errors):.3f} |")
    lines += ["", "| replayed on the Gram matrices of K = 1 | steps that measure | error of log λ |", "|---|---|---|"]
    config = DistillationConfig(output_dir=str(folder), report_to="none", lambda_rule=RULE)
    for name, schedule in SCHEDULES.items():
        replays = [replay(runs[seed, 1]["gram"], config, schedule()) for seed in range(seeds)]
        share = statistics.fmean(replayed.share for replayed in replays)
        errors = [error(replayed.lambdas, runs[seed, 1]["lambda"]) for seed, replayed in enumerate(replays)]
        lines.append(f"| {name} | {share:.1%} | {statistics.fmean(errors):.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Make the missing runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="nyu-mll/glue")
    parser.add_argument("--teacher", default="quickstart")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/interval"))
    args = parser.parse_args()
    for task, settings in TASKS.items():
        folder = args.output / task
        line = [str(CONFIGS / f"{task}.yaml"), "--teacher", args.teacher, *settings]
        line += ["--dataset", args.data] if task in GLUE_TASKS else []
        line += ["--lambda_rule", RULE, "--student_layers", "0", "2", "5", "--output_dir", str(folder)]
        line += ["--teacher_dir", str(folder / "teacher")]
        job = DistillationJob(*parse(line))
        for seed in range(args.seeds):
            for interval in INTERVALS:
                file = folder / f"{seed}-{interval}.json"
                if not file.exists():
                    file.write_text(json.dumps(train(job, seed, interval)) + "\n")
        print(f"\n{task}\n\n{table(folder, args.seeds)}")


if __name__ == "__main__":
    main()
