"""The table of models, and results.json."""

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hf_kd_lambda.reports.markdown import escaped

WARMUP_RUNS, TIMED_RUNS = 5, 30
NO_SHARES = ("perplexity",)  # metrics that are not percentages
CLEARLY_ABOVE_CHANCE = 0.05  # with a smaller lead of the teacher, the share of its score would be noise


@dataclass(frozen=True)
class ModelReport:
    """Scores, size and speed of a model.

    Metrics are fractions or correlations, except those in `NO_SHARES`. `megabytes` is the size of the weights in
    safetensors, in 10⁶ bytes. `latency_ms` is the median time of one forward. All models are compared with the one
    named "teacher".
    """

    name: str
    metrics: dict[str, float]
    parameters: int
    megabytes: float
    latency_ms: float

    def retained(self, reports: Sequence["ModelReport"], main_metric: str, chance: float = 0.0) -> float | None:
        """The share of the teacher's score; above 1 if this model is better than the teacher.

        Args:
            reports: reports of the compared models.
            main_metric: the metric to compare; higher is better.
            chance: the metric of a trivial prediction: the majority label's share for accuracy, 0 for a correlation.

        Returns:
            None if the share is meaningless: there is no teacher in `reports`, the teacher is not clearly above
            chance, or the metric is in `NO_SHARES`.
        """
        teacher = next((report.metrics[main_metric] for report in reports if report.name == "teacher"), math.nan)
        if main_metric in NO_SHARES or not teacher > chance + CLEARLY_ABOVE_CHANCE:
            return None
        return self.metrics[main_metric] / teacher


def measure_model(
    name: str, model: nn.Module, metrics: dict[str, float], example: Mapping[str, Tensor]
) -> ModelReport:
    """Count a model's parameters and bytes, and time its forward on `example`, a batch of one."""
    # Tied weights have the same address; safetensors stores them once.
    stored = {tensor.data_ptr(): tensor.nbytes for tensor in model.state_dict().values()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelReport(name, metrics, parameters, sum(stored.values()) / 1e6, _latency_ms(model, example))


@torch.inference_mode()
def _latency_ms(model: nn.Module, example: Mapping[str, Tensor]) -> float:
    device = next(model.parameters()).device
    inputs = {key: tensor.to(device) for key, tensor in example.items()}
    was_training = model.training
    model.eval()
    seconds = []
    for _ in range(WARMUP_RUNS + TIMED_RUNS):
        start = time.perf_counter()
        model(**inputs)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - start)
    model.train(was_training)
    return 1e3 * statistics.median(seconds[WARMUP_RUNS:])


def results_table(reports: Sequence[ModelReport], main_metric: str, chance: float = 0.0) -> str:
    """An aligned table for the terminal: one line per model, the main metric first; `chance` as in `retained`."""
    rows = _rows(reports, main_metric, chance)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(reports: Sequence[ModelReport], main_metric: str, chance: float = 0.0) -> str:
    """The table of `results_table` in Markdown."""
    head, *rows = ([escaped(cell) for cell in row] for row in _rows(reports, main_metric, chance))
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows])


def _rows(reports: Sequence[ModelReport], main_metric: str, chance: float) -> list[list[str]]:
    names = list(dict.fromkeys([main_metric, *(name for report in reports for name in report.metrics)]))
    scales = ["parameters (M)", "size (MB)", "latency (ms)", "retained (%)"]
    rows = [["model", *(name if name in NO_SHARES else f"{name} (%)" for name in names), *scales]]
    for report in reports:
        scores = [(_number if name in NO_SHARES else _percent)(report.metrics.get(name)) for name in names]
        sizes = [f"{report.parameters / 1e6:.1f}", f"{report.megabytes:.1f}", f"{report.latency_ms:.1f}"]
        retained = report.retained(reports, main_metric, chance)
        above = retained is not None and retained > 1
        rows.append([report.name, *scores, *sizes, "above the teacher" if above else _percent(retained)])
    return rows


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def write_results(
    path: Path,
    reports: Sequence[ModelReport],
    main_metric: str,
    figure: Path | None,
    extra: Mapping[str, object],
    chance: float = 0.0,
) -> None:
    """Write the models and `extra` (task, versions) to results.json, atomically."""
    models = [asdict(report) | {"retained": report.retained(reports, main_metric, chance)} for report in reports]
    results = {**extra, "main_metric": main_metric, "models": models, "figure": figure.name if figure else None}
    # JSON has no NaN or infinity: they become null.
    finite = json.loads(json.dumps(results, default=str), parse_constant=lambda _: None)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(finite, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
