"""Made-up runs of a comparison."""

import json
import math
from dataclasses import asdict, replace

from hf_kd_lambda.studies.comparison.run_results import FILE, Run

WEIGHTS = {"low": 0.1, "high": 0.5}  # of the fixed rules


def made_up_run(rule, seed=0, score=0.5, *, task="t", regime="r", seconds=10.0, evaluations=(), log=None):
    """A finished run; `low` and `high` are fixed rules, all others measure.

    Args:
        rule, seed, score, task, regime, seconds: values of the run.
        evaluations: (step, score) of each, a tenth of a second a step.
        log: log of the run; None: λ of a fixed rule twice, else λ of 1 to 4, in conflict every second time.
    """
    kd_weight = WEIGHTS.get(rule)
    if log is None and kd_weight:
        log = [{"step": step, "lambda": kd_weight / (1 - kd_weight)} for step in (5, 10)]
    elif log is None:
        log = [{"step": 5, "lambda": 1.0, "grad_cosine": 0.5}, {"step": 10, "lambda": 4.0, "grad_cosine": -0.5}]
    parameters = {"lambda_rule": "fixed", "kd_weight": kd_weight} if kd_weight else {"lambda_rule": rule}
    return Run(
        task=task,
        regime=regime,
        rule=rule,
        seed=seed,
        rule_parameters=parameters,
        settings={"learning_rate": 1e-4, "seed": seed},
        versions={"torch": "2.11.0"},
        commit="abc1234",
        hardware="CPU, 2 threads",
        score=score,
        metrics={"accuracy": score},
        agreement=0.8,
        steps=10,
        seconds=seconds,
        evaluations=[{"step": step, "seconds": step / 10, "score": at, "agreement": 0.8} for step, at in evaluations],
        log=log,
        teacher_score=0.9,
        examples=1000,
        standard_error=0.01,
    )


def failed(run, error="RuntimeError: out of memory"):
    """The same run as it is recorded when it fails."""
    nothing = {"score": None, "metrics": {}, "agreement": None, "steps": 0, "seconds": 0.0, "teacher_score": None}
    nothing |= {"examples": None, "standard_error": None}
    return replace(run, **nothing, evaluations=[], log=[], error=error)


def whole_grid(tasks=("t", "u"), regimes=("r", "s"), rules=("low", "high", "adaptive"), seeds=(0, 1)):
    """A run of each cell, which learns; the best fixed rule is `high` in regime `r`, and `low` elsewhere."""
    runs = []
    for task in tasks:
        for regime in regimes:
            for rule in rules:
                for seed in seeds:
                    best = "high" if regime == "r" else "low"
                    score = 0.7 + 0.01 * seed + {best: 0.05, "adaptive": 0.04}.get(rule, 0.0)
                    curve = [(step, score * (1 - math.exp(-step / 2))) for step in (2, 4, 6, 8)]
                    runs.append(
                        made_up_run(rule, seed, score, task=task, regime=regime, evaluations=[*curve, (10, score)])
                    )
    return runs


def write_runs(folder, runs):
    """Write the runs as a comparison does, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(asdict(run)) + "\n" for run in runs)
    (folder / FILE).write_text(lines, encoding="utf-8")
    return folder
