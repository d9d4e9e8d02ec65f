"""Cost of a measuring step against student size, batch, sequence length and ranks, and a model that predicts it.

The unit is the forward pass of one layer over one batch; a backward pass costs two, one for the gradients of the
activations and one for those of the weights. With S student layers, T teacher layers, n tokens in a batch and L in an
example

    fixed = u·(3S + T) + p      measuring = u·(5S + T) + p + q      u = n·(α + β·L)

where β is attention's share, p is what a step pays whatever the batch (optimizer, clipping, launching), and q what a
measuring step pays so on top. α, β, p and q ≥ 0 are fitted to all steps by least squares of relative errors.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import lsq_linear

from benchmarks.steps import StepSetting, measure, measure_alone
from hf_kd_lambda.utils.hardware import hardware


class Grid(NamedTuple):
    """A setting, and the values of each axis along which it is varied."""

    centre: StepSetting
    axes: dict[str, list[Any]]

    def settings(self) -> set[StepSetting]:
        """All settings to measure."""
        varied = {replace(self.centre, **{axis: value}) for axis, values in self.axes.items() for value in values}
        return varied | {self.centre}


SMALL = Grid(
    StepSetting(),
    {"student_layers": [2, 3, 4, 6, 12], "batch": [8, 16, 32, 64, 128], "length": [32, 48, 128, 256]},
)
BASE = Grid(
    StepSetting(student_layers=6, precision="bf16", least_teacher_layers=12, hidden=768),
    {"student_layers": [2, 3, 6, 12], "batch": [8, 16, 32], "length": [32, 48, 128]},
)
GRIDS = {"small": SMALL, "base": BASE}
TWO_RANKS = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]


class Cost(NamedTuple):
    """Seconds of an ordinary and a measuring step with the teacher online, and their setting."""

    setting: StepSetting
    fixed: float
    measuring: float

    @property
    def ratio(self) -> float:
        """A measuring step divided by an ordinary one."""
        return self.measuring / self.fixed


def measure_grid(folder: Path, rounds: int, size: str = "small", clock: str = "seconds") -> None:
    """Measure one axis after the other, write `grid.json` and `grid.png`, and print the tables.

    Args:
        folder: for the files.
        rounds: steps of each kind.
        size: one of `GRIDS`. Two ranks are measured with `small` alone.
        clock: `seconds`, or `cpu_seconds` on a machine that other processes use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grid = GRIDS[size]
    measured = {setting: cost_of(measure(setting, rounds), clock) for setting in grid.settings()}
    ranks = cost_of(measure_alone(grid.centre, rounds, TWO_RANKS), clock) if size == "small" else None
    record = {
        "size": size,
        "hardware": hardware(),
        "clock": clock,
        "rounds": rounds,
        "costs": [cost_record(cost) for cost in measured.values()],
        "two_ranks": ranks and cost_record(ranks),
    }
    (folder / "grid.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(grid, measured, fit(measured.values()), folder / "grid.png")
    print(tables(record))


def cost_of(measured: dict[str, Any], clock: str = "seconds") -> Cost:
    """Medians of the result of `measure`."""
    medians = (statistics.median(measured[clock][kind]) for kind in ("online_fixed", "online_measuring"))
    return Cost(StepSetting(**measured["setting"]), *medians)


class Model(NamedTuple):
    """The fitted constants, in seconds."""

    alpha: float
    beta: float
    step: float
    measuring: float

    def ratio(self, setting: StepSetting) -> float:
        """Predicted ratio of a measuring step to an ordinary one."""
        constants = np.array(self)
        return float(_units(setting, True) @ constants / (_units(setting, False) @ constants))


def fit(costs: Iterable[Cost]) -> Model:
    """Least squares of relative errors, with no negative constant."""
    rows = [
        np.array(_units(cost.setting, measures)) / seconds
        for cost in costs
        for measures, seconds in ((False, cost.fixed), (True, cost.measuring))
    ]
    return Model(*lsq_linear(np.stack(rows), np.ones(len(rows)), bounds=(0, np.inf)).x)


def _units(setting: StepSetting, measures: bool) -> np.ndarray:
    layers = (5 if measures else 3) * setting.student_layers + setting.teacher_layers
    work = layers * setting.batch * setting.length
    return np.array([work, work * setting.length, 1.0, float(measures)])


def tables(record: Mapping[str, Any]) -> str:
    """Markdown of a `grid.json`: one table an axis, one of two ranks if they were measured, the model's constants."""
    grid, ranks = GRIDS[record["size"]], record["two_ranks"] and _cost(record["two_ranks"])
    costs = [_cost(cost) for cost in record["costs"]]
    measured = {cost.setting: cost for cost in costs}
    model = fit(costs)
    lines = []
    for axis, values in grid.axes.items():
        rows = ((value, measured[replace(grid.centre, **{axis: value})]) for value in values)
        lines += _head(axis) + [f"| {value} {_row(cost, model)}" for value, cost in rows]
        lines.append("")
    if ranks is not None:
        lines += _head("ranks")
        lines += [f"| 1 {_row(measured[grid.centre], model)}", f"| 2, a core each {_row(ranks, model)}", ""]
    errors = [abs(model.ratio(cost.setting) / cost.ratio - 1) for cost in costs]
    lines.append(
        f"α = {1e6 * model.alpha:.2f} µs a token and layer, β = {1e9 * model.beta:.1f} ns more for each token of the "
        f"example, p = {1e3 * model.step:.0f} ms, q = {1e3 * model.measuring:.0f} ms; largest error of the predicted "
        f"ratio, of one rank: {max(errors):.1%}. Measured on {record['hardware']}."
    )
    return "\n".join(lines) + "\n"


def _head(axis: str) -> list[str]:
    return [f"| {axis} | fixed step, s | measuring step, s | ratio | predicted | error |", "|---|---|---|---|---|---|"]


def _row(cost: Cost, model: Model) -> str:
    predicted = model.ratio(cost.setting)
    error = predicted / cost.ratio - 1
    return f"| {cost.fixed:.3f} | {cost.measuring:.3f} | {cost.ratio:.2f} | {predicted:.2f} | {error:+.1%} |"


def cost_record(cost: Cost) -> dict[str, Any]:
    """A cost as `grid.json` has it."""
    return {**asdict(cost.setting), "fixed_s": cost.fixed, "measuring_s": cost.measuring}


def _cost(record: Mapping[str, Any]) -> Cost:
    setting = {name: value for name, value in record.items() if name not in ("fixed_s", "measuring_s")}
    return Cost(StepSetting(**setting), record["fixed_s"], record["measuring_s"])


def plot(grid: Grid, measured: Mapping[StepSetting, Cost], model: Model, file: Path) -> None:
    """Measured and predicted ratio against each axis."""
    count = len(grid.axes)
    figure, panels = plt.subplots(1, count, figsize=(4 * count, 3.2), sharey=True, layout="constrained")
    for panel, (axis, values) in zip(panels, grid.axes.items(), strict=True):
        settings = [replace(grid.centre, **{axis: value}) for value in values]
        panel.plot(values, [measured[setting].ratio for setting in settings], "o", label="measured")
        panel.plot(values, [model.ratio(setting) for setting in settings], "-", label="predicted")
        panel.set_xlabel(axis.replace("_", " "))
        panel.set_xscale("log", base=2)
        panel.set_xticks(values, [str(value) for value in values], minor=False)
    panels[0].set_ylabel("measuring / fixed step")
    panels[0].legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)
