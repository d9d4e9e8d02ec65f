"""What a run leaves to look at: the figure of λ, the table of models and results.json."""

import json
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor, nn

SMOOTH_ABOVE = 50  # logged points; fewer are drawn as they are
WARMUP_RUNS, TIMED_RUNS = 5, 30


class Line(NamedTuple):
    """A line of the figure: the key that it is logged under, and its looks."""

    key: str
    label: str
    color: str
    style: str = "-"


# The colour-blind-safe palette of Okabe and Ito (2008): the task is blue and distillation vermilion in every panel.
TASK, KD, LAMBDA, COSINE = "#0072B2", "#D55E00", "#009E73", "#8F4E7D"
PANELS = {
    "λ": [Line("lambda", "λ", LAMBDA), Line("kd_weight", "KD weight", KD, "--")],
    "loss": [Line("task_loss", "task loss", TASK), Line("kd_loss", "KD loss", KD)],
    "gradient norm": [Line("grad_norm_task", "task gradient", TASK), Line("grad_norm_kd", "KD gradient", KD)],
    "cosine": [Line("grad_cosine", "cosine of the two gradients", COSINE)],
}
LOG_SCALED = ("λ", "gradient norm")


def plot_lambda(log_history: list[dict[str, float]], path: Path, title: str = "How λ balanced both losses") -> Path:
    """Draws λ, both losses, both gradient norms and their cosine over the optimizer steps of a run.

    A panel of which nothing was logged is left out, such as the gradients of the `fixed` rule.

    Args:
        log_history: the entries of `trainer_state.json`; those of evaluations are skipped.
        path: the picture to write, which is also returned; its suffix sets the format.
        title: the line above the panels.
    """
    entries = [entry for entry in log_history if entry.keys() & {"lambda", "kd_weight", "task_loss"}]
    names = [name for name in PANELS if any(_points(entries, line, name)[0].size for line in PANELS[name])]
    figure = Figure(figsize=(8, 0.6 + 1.85 * max(len(names), 1)), dpi=150, layout="constrained")
    figure.suptitle(title if names else "No step was logged: lower logging_steps.", fontsize=13, fontweight="bold")
    if names:
        for axes, name in zip(figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
            _draw_panel(axes, name, entries)
        smoothed = "\nfaint: logged values, strong: moving average" if len(entries) > SMOOTH_ABOVE else ""
        axes.set_xlabel("optimizer step" + smoothed)
        figure.align_ylabels()
    figure.savefig(path)
    return path


def _points(entries: list[dict[str, float]], line: Line, panel: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values of `line`, NaN for what cannot be drawn, and both empty where nothing can."""
    logged = [(entry["step"], entry[line.key]) for entry in entries if line.key in entry]
    steps, values = np.array(logged, dtype=float).reshape(-1, 2).T
    drawable = np.isfinite(values) & ((values > 0) | (panel not in LOG_SCALED))
    return (steps, np.where(drawable, values, np.nan)) if drawable.any() else (steps[:0], values[:0])


def _draw_panel(axes: Axes, name: str, entries: list[dict[str, float]]) -> None:
    for line in PANELS[name]:
        steps, values = _points(entries, line, name)
        if len(steps) > SMOOTH_ABOVE:
            axes.plot(steps, values, color=line.color, linewidth=0.7, alpha=0.3)
            values = np.exp(moving_average(np.log(values))) if name in LOG_SCALED else moving_average(values)
        if len(steps):
            marker = "" if len(steps) > SMOOTH_ABOVE else "."
            axes.plot(steps, values, line.style, color=line.color, linewidth=1.8, marker=marker, label=line.label)
    if name in LOG_SCALED:
        _set_log_scale(axes)
    if name == "cosine":
        _mark_conflict(axes)
    axes.margins(x=0.015)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(name)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0.2, borderaxespad=0.1)


def _set_log_scale(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Plain decades where there are several; a narrower range would be left with one tick or none.
    subs = (1,) if high / low > 100 else (1, 2, 5) if high / low > 10 else (1, 1.5, 2, 3, 5, 7)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _mark_conflict(axes: Axes) -> None:
    axes.axhline(0, color="black", linewidth=0.8)
    low, high = axes.get_ylim()
    low = min(low, -0.3 * high)  # room for the mark where no step was in conflict
    axes.axhspan(low, 0, color="black", alpha=0.08, linewidth=0, label="conflict: a step along one raises the other")
    axes.set_ylim(low, high)


def moving_average(values: np.ndarray) -> np.ndarray:
    """Returns the centred mean of a twentieth of the values around each; NaN values are left out of it."""
    kernel = np.ones(2 * (len(values) // 40) + 1)
    finite = np.isfinite(values)
    count = np.convolve(finite, kernel, mode="same")
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="same")
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.5)


@dataclass(frozen=True)
class ModelReport:
    """How good, how large and how fast a model is.

    Metrics are fractions or correlations, megabytes are 10⁶ bytes of weights as safetensors stores them, and the
    latency is the median time of one forward. The model named "teacher" is the one that others are compared with.
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
    names = list(dict.fromkeys([main_metric, *(name for report in reports for name in report.metrics)]))
    scales = ["parameters (M)", "size (MB)", "latency (ms)", "retained (%)"]
    rows = [["model", *(f"{name} (%)" for name in names), *scales]]
    for report in reports:
        scores = [_percent(report.metrics.get(name)) for name in names]
        sizes = [f"{report.parameters / 1e6:.1f}", f"{report.megabytes:.1f}", f"{report.latency_ms:.1f}"]
        rows.append([report.name, *scores, *sizes, _percent(report.retained(reports, main_metric))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _percent(share: float | None) -> str:
    return "–" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def write_results(
    path: Path, reports: Sequence[ModelReport], main_metric: str, figure: Path, extra: Mapping[str, object]
) -> None:
    """Writes results.json, the models and `extra` (task, versions), in one step: no crash leaves half of it."""
    models = [asdict(report) | {"retained": report.retained(reports, main_metric)} for report in reports]
    results = {**extra, "main_metric": main_metric, "models": models, "figure": str(figure)}
    # JSON has neither NaN nor infinity: they become null.
    finite = json.loads(json.dumps(results, default=str), parse_constant=lambda _: None)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(finite, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
