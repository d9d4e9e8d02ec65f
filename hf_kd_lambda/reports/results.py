"""The table of models, and results.json."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hf_kd_lambda.reports.markdown import escaped, table_of
from hf_kd_lambda.utils.evaluation_mode import evaluation_mode
from hf_kd_lambda.utils.hardware import count_threads
from hf_kd_lambda.utils.log_keys import MAIN_METRIC
from hf_kd_lambda.utils.paths import write_at_once

WARMUP_RUNS, ROUNDS, ROUND_RUNS = 5, 5, 6
NO_SHARES = ("perplexity",)  # metrics that are not percentages
NO_CLASSES = ("pearson", "exact_match", "perplexity")  # metrics of tasks without classes
NO_PARTS = (MAIN_METRIC, "teacher_agreement", *NO_SHARES)  # metrics that are not part of a score
BETTER_TEACHER = (
    "A better teacher would help more: fine-tune it for longer (teacher_epochs, teacher_learning_rate), or choose "
    "another."
)
STILL_RISING = 0.01  # gain of a run's last evaluation over all earlier ones, for which longer training is advised
AT_CHANCE = 0.02  # by which the score of a teacher that guesses may be above that of a constant guess
CLEARLY_ABOVE_CHANCE = 0.05  # with a smaller lead of the teacher, the share of its score would be noise


@dataclass(frozen=True)
class ModelReport:
    """Scores, size and speed of a model.

    Metrics are fractions or correlations, except those in `NO_SHARES`. `megabytes` is the size of the weights in
    safetensors, in 10⁶ bytes. All models are compared with the one named "teacher".

    Attributes:
        latency_ms: time of one forward of one example: the mean of a round, in the fastest of several rounds.
        threads: CPU threads that computed it; None on an accelerator.
        batch_latency_ms: the same for a larger batch; None if it was not measured.
    """

    name: str
    metrics: dict[str, float]
    parameters: int
    megabytes: float
    latency_ms: float
    threads: int | None = None
    batch_latency_ms: float | None = None
    standard_error: float | None = None
    """Standard error of the main metric over the examples; None if it was not computed."""
    examples: int | None = None
    """Number of examples that it was evaluated on; None if it was not."""
    classes: Sequence[Mapping[str, Any]] = ()
    """Scores of each class, see `class_scores`."""

    def retained(self, reports: Sequence["ModelReport"], chance: float = 0.0) -> float | None:
        """The share of the teacher's score; above 1 if this model is better than the teacher.

        Args:
            reports: reports of the compared models.
            chance: the score of a constant prediction; 0 for a correlation.

        Returns:
            None if the share is meaningless: `reports` has no teacher, or none clearly above chance.
        """
        teacher = next((report.metrics[MAIN_METRIC] for report in reports if report.name == "teacher"), math.nan)
        return self.metrics[MAIN_METRIC] / teacher if teacher > chance + CLEARLY_ABOVE_CHANCE else None


def score_meaning(reports: Sequence[ModelReport]) -> str:
    """What the metric `score` is, in words; empty if the metrics do not show it, or fit more than one metric.

    Args:
        reports: one or more compared models.
    """
    names = [name for name in reports[-1].metrics if name not in NO_PARTS and "loss" not in name]
    models = [report.metrics for report in reports if {MAIN_METRIC, *names} <= report.metrics.keys()]
    scores = [metrics[MAIN_METRIC] for metrics in models]
    parts = {name: [metrics[name] for metrics in models] for name in names if models}
    same = [name for name, values in parts.items() if np.allclose(values, scores, rtol=0, atol=1e-9)]
    if same:
        return f"score is {same[0]}" if len(same) == 1 else ""
    if parts and np.allclose(np.mean([*parts.values()], axis=0), scores, rtol=0, atol=1e-6):
        return f"score is the mean of {' and '.join(parts)}"
    return ""


def measure_model(
    name: str, model: nn.Module, metrics: dict[str, float], example: Mapping[str, Tensor]
) -> ModelReport:
    """Count a model's parameters and bytes, and time its forward on `example`, a batch of one."""
    # Tied weights have the same address; safetensors stores them once.
    stored = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    threads = torch.get_num_threads() if next(model.parameters()).device.type == "cpu" else None
    return ModelReport(name, metrics, parameters, sum(stored.values()) / 1e6, latency_ms(model, example), threads)


@torch.inference_mode()
def latency_ms(model: nn.Module, example: Mapping[str, Tensor]) -> float:
    """Milliseconds of one forward: the mean of a round, in the fastest of several rounds.

    Other work on the machine makes a round slower, never faster.
    """
    device = next(model.parameters()).device
    inputs = {key: tensor.to(device) for key, tensor in example.items()}
    with evaluation_mode(model):
        seconds = [_seconds(model, inputs, device, runs) for runs in (WARMUP_RUNS, *[ROUND_RUNS] * ROUNDS)]
    return 1e3 * min(seconds[1:])


def _seconds(model: nn.Module, inputs: Mapping[str, Tensor], device: torch.device, runs: int) -> float:
    """Mean time of so many forwards."""
    start = time.perf_counter()
    for _ in range(runs):
        model(**inputs)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
    return (time.perf_counter() - start) / runs


def results_table(reports: Sequence[ModelReport], chance: float = 0.0) -> str:
    """An aligned table for the terminal: a column per model, the main metric first; `chance` as in `retained`."""
    columns = table_rows(reports, chance)
    columns[0][0] = ""  # what is below are no models
    return aligned([*zip(*columns, strict=True)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, its head first: all columns but the first are aligned on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(reports: Sequence[ModelReport], chance: float = 0.0) -> str:
    """The values of `results_table` in Markdown, a line per model."""
    rows = [[escaped(cell) for cell in row] for row in table_rows(reports, chance)]
    return table_of(rows, numbers=range(1, len(rows[0])))


def standard_error_note(reports: Sequence[ModelReport]) -> str:
    """Which differences may be noise, by the standard errors of the scores; empty without these."""
    errors = [report.standard_error for report in reports if report.standard_error is not None]
    if not any(errors):  # all right, or all wrong
        count = reports[-1].examples
        if not (errors and count and all(report.metrics[MAIN_METRIC] == 1 for report in reports)):
            return ""
        most = 1 - 0.05 ** (1 / count)  # with a larger share of wrong ones, all are right in 5% of the samples
        return (
            f"All {count:,} examples are right. Of other examples from the same source, up to {most:.1%} may be wrong "
            "(with 95% confidence)."
        )
    points = 100 * max(errors)
    return (
        f"A score has a standard error of about {points:.1f} points: differences of less than {2 * points:.1f} points "
        "may be noise."
    )


def score_notes(
    reports: Sequence[ModelReport],
    log_history: Sequence[Mapping[str, float]] = (),
    chance: float = -math.inf,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Sentences on what the score is, how exact it is, and what would raise it, as far as that is known.

    Args:
        reports: reports of the compared models; the last is the student's.
        log_history: the entries of the student's `trainer_state.json`.
        chance, settings: see `guessing_teacher_note`.
    """
    meaning = score_meaning(reports)
    notes = [f"{meaning.capitalize()}." if meaning else ""]
    if {"teacher_agreement", "pearson"} <= reports[-1].metrics.keys():
        notes.append("teacher_agreement is Pearson's correlation with the teacher's outputs.")
    notes.append(standard_error_note(reports))
    notes.append(guessing_teacher_note(reports, chance, settings) or weak_teacher_note(reports, settings))
    return list(filter(None, [*notes, rising_score_note(log_history, settings)]))


def guessing_teacher_note(reports: Sequence[ModelReport], chance: float, settings: Mapping[str, Any]) -> str:
    """What to change if the teacher scores no better than a constant guess; else empty.

    Args:
        reports: reports of the compared models.
        chance: the score of a constant guess; 0 where it has none.
        settings: of the run, of which those of the teacher are used; empty without a run.
    """
    metrics = next((report.metrics for report in reports if report.name == "teacher"), {MAIN_METRIC: math.inf})
    score = metrics[MAIN_METRIC]
    if score > chance + AT_CHANCE:
        return ""
    found = f"The teacher scores {score:.1%}"
    found += f", and a constant guess scores {chance:.1%}" if chance > 0 else ""
    return f"{found}: {_better_than_guesses(settings, has_classes=metrics.keys().isdisjoint(NO_CLASSES))}."


def _better_than_guesses(settings: Mapping[str, Any], has_classes: bool) -> str:
    """Why a teacher guesses, and what to change."""
    if settings.get("teacher_finetune"):
        return (
            "fine-tuning did not help. Raise teacher_epochs (now {teacher_epochs:g}) or teacher_learning_rate (now "
            "{teacher_learning_rate:g}), or choose another teacher"
        ).format(**settings)
    teacher, fix = settings.get("teacher"), "or choose another teacher" if has_classes else "choose another teacher"
    if isinstance(teacher, str):
        fix = "set teacher_finetune: true, or choose another teacher"
    elif isinstance(teacher, list):
        fix = "fine-tune each of the teachers in a run of its own, or choose others"
    reason = "it was not trained for this task"
    if has_classes:
        return f"{reason}, or for these labels in another order. Check the order in its config.json (id2label), {fix}"
    return f"{reason}. {fix[0].upper()}{fix[1:]}"


def rising_score_note(log_history: Sequence[Mapping[str, float]], settings: Mapping[str, Any]) -> str:
    """A sentence if the score of the last evaluation is above all earlier ones by `STILL_RISING`; else empty."""
    scores = [entry["eval_score"] for entry in log_history if "eval_score" in entry]
    gain = scores[-1] - max(scores[:-1]) if len(scores) > 1 else 0.0
    if gain < STILL_RISING:
        return ""
    length = "max_steps" if settings.get("max_steps", 0) > 0 else "num_train_epochs"
    return (
        f"The student's score rose by {100 * gain:.1f} points in the last evaluation: train it for longer "
        f"({length}), or with a higher learning_rate."
    )


def weak_teacher_note(reports: Sequence[ModelReport], settings: Mapping[str, Any]) -> str:
    """A sentence if the teacher scores below another model by more than two standard errors; else empty.

    Args:
        reports, settings: see `guessing_teacher_note`.
    """
    scores = {report.name: report.metrics.get(MAIN_METRIC, math.nan) for report in reports}
    errors = [report.standard_error for report in reports if report.standard_error is not None]
    best = max(scores, key=lambda name: scores[name])
    if not errors or not scores[best] - scores.get("teacher", math.nan) > 2 * max(errors):
        return ""
    advice = BETTER_TEACHER if settings.get("teacher_finetune") else "A better teacher would help more."
    return f"The teacher scores below the {best}.{f' {advice}' if settings else ''}"


def table_rows(reports: Sequence[ModelReport], chance: float) -> list[list[str]]:
    """The head and a row for each model; arguments as for `results_table`."""
    names = list(dict.fromkeys([MAIN_METRIC, *(name for report in reports for name in report.metrics)]))
    columns: dict[str, list[str]] = {"model": [report.name for report in reports]}
    for name in names:
        values = [report.metrics.get(name) for report in reports]
        columns[name if name in NO_SHARES else f"{name} (%)"] = [
            (_number if name in NO_SHARES else _percent)(value) for value in values
        ]
    columns["parameters (M)"] = [_number(report.parameters / 1e6) for report in reports]
    columns["size (MB)"] = [_number(report.megabytes) for report in reports]
    columns[f"latency ({_unit(reports)})"] = [_number(report.latency_ms) for report in reports]
    if any(report.batch_latency_ms is not None for report in reports):
        columns["latency of 32 (ms)"] = [_number(report.batch_latency_ms) for report in reports]
    if any(report.name == "teacher" for report in reports):
        columns["of teacher's score (%)"] = [_share(report.retained(reports, chance)) for report in reports]
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def _unit(reports: Sequence[ModelReport]) -> str:
    threads = {report.threads for report in reports if report.threads is not None}
    return f"ms, {count_threads('/'.join(map(str, sorted(threads))))}" if threads else "ms"


def _share(retained: float | None) -> str:
    return "above the teacher" if retained is not None and retained > 1 else _percent(retained)


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def write_results(
    path: Path,
    reports: Sequence[ModelReport],
    figure: Path | None,
    extra: Mapping[str, object],
    chance: float = 0.0,
) -> None:
    """Write the models and `extra` (task, versions) to results.json, atomically."""
    models = [asdict(report) | {"retained": report.retained(reports, chance)} for report in reports]
    results = {**extra, "main_metric": MAIN_METRIC, "models": models, "figure": figure.name if figure else None}
    write_at_once(path, as_json(results))


def as_json(values: Mapping[str, object]) -> str:
    """The text of a JSON file. JSON has no NaN or infinity: they become null."""
    finite = json.loads(json.dumps(values, default=str), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False) + "\n"
