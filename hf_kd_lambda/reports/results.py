"""What a run leaves to read: the table of models and results.json."""

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

WARMUP_RUNS, TIMED_RUNS = 5, 30
NO_SHARES = ("perplexity",)  # metrics that are no percentages


@dataclass(frozen=True)
class ModelReport:
    """How good, how large and how fast a model is.

    Metrics are fractions or correlations, but for those in `NO_SHARES`; megabytes are 10⁶ bytes of weights as
    safetensors stores them, and the latency is the median time of one forward. The model named "teacher" is the one
    that others are compared with.
    """

    name: str
    metrics: dict[str, float]
    parameters: int
    megabytes: float
    latency_ms: float

    def retained(self, reports: Sequence["ModelReport"], main_metric: str) -> float | None:
        """Returns the share of the teacher's score, None where the teacher in `reports` has no positive one."""
        teacher = next((report.metrics[main_metric] for report in reports if report.name == "teacher"), 0.0)
        return self.metrics[main_metric] / teacher if teacher > 0 else None


def measure_model(
    name: str, model: nn.Module, metrics: dict[str, float], example: Mapping[str, Tensor]
) -> ModelReport:
    """Counts the model's parameters and bytes, and times its forward on `example`, a batch of one."""
    # Tied weights share their address, and safetensors stores them once.
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


def results_table(reports: Sequence[ModelReport], main_metric: str) -> str:
    """Returns an aligned table for the terminal, a line for each model, the main metric first."""
    rows = _rows(reports, main_metric)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(reports: Sequence[ModelReport], main_metric: str) -> str:
    """Returns the same table in Markdown."""
    head, *rows = _rows(reports, main_metric)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---", *["---:"] * (len(head) - 1)], *rows])


def _rows(reports: Sequence[ModelReport], main_metric: str) -> list[list[str]]:
    names = list(dict.fromkeys([main_metric, *(name for report in reports for name in report.metrics)]))
    scales = ["parameters (M)", "size (MB)", "latency (ms)", "retained (%)"]
    rows = [["model", *(name if name in NO_SHARES else f"{name} (%)" for name in names), *scales]]
    for report in reports:
        scores = [(_number if name in NO_SHARES else _percent)(report.metrics.get(name)) for name in names]
        sizes = [f"{report.parameters / 1e6:.1f}", f"{report.megabytes:.1f}", f"{report.latency_ms:.1f}"]
        rows.append([report.name, *scores, *sizes, _percent(report.retained(reports, main_metric))])
    return rows


def _percent(share: float | None) -> str:
    return _number(None if share is None else 100 * share)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def write_results(
    path: Path, reports: Sequence[ModelReport], main_metric: str, figure: Path | None, extra: Mapping[str, object]
) -> None:
    """Writes results.json, the models and `extra` (task, versions), in one step: no crash leaves half of it."""
    models = [asdict(report) | {"retained": report.retained(reports, main_metric)} for report in reports]
    results = {**extra, "main_metric": main_metric, "models": models, "figure": figure.name if figure else None}
    # JSON has neither NaN nor infinity: they become null.
    finite = json.loads(json.dumps(results, default=str), parse_constant=lambda _: None)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(finite, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
