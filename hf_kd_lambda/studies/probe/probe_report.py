"""The report of the probe: a Markdown page with tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean, mean
from typing import NamedTuple

import torch
import transformers
from torch import Tensor

from hf_kd_lambda.balancing.rules import feasible_interval
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.reports.markdown import table_of
from hf_kd_lambda.studies.probe.probe_figures import plot_errors, plot_parabolas
from hf_kd_lambda.studies.probe.slopes import Slopes
from hf_kd_lambda.studies.probe.sweep import CURVATURE, R_SQUARED, Sweep
from hf_kd_lambda.studies.probe.updates import gram_of

TableRows = list[list[str]]

PAGE = """# λ probed in the run {name}

Written by `{command}`
(torch {torch}, transformers {transformers}). [What the probe measured](measured.md) explains the tables.

{points}

## SGD

With R² of the fit ≥ {r_squared} and an error of b ≤ {curvature:.0%}, the prediction holds

{holds}

![changes of the losses after steps of SGD]({name}_sgd.png)

{sgd}

## AdamW

Slopes are means over {batches} batches; changes ΔL are from one batch at the smallest η:

{slopes}

![changes of the losses after steps of AdamW]({name}_adamw.png)

With the factor that fits ΔL best:

{adamw}

## Where it breaks

![errors over the learning rate]({name}_errors.png)
"""


class Stage(NamedTuple):
    """The measurements at one point of a run."""

    sgd: Sweep
    """With one metric."""
    adamw: Sweep
    """With several metrics."""
    slopes: Sequence[Slopes]
    """Slopes of AdamW on several batches, in the same metrics."""


def write_probe_report(folder: Path, name: str, command: str, stages: Mapping[str, Stage]) -> str:
    """Writes `<name>.md` and its figures.

    Args:
        folder: where to write; it is created.
        name: name of the run.
        command: the command of the run.
        stages: by their names, early ones first.

    Returns:
        The page.
    """
    sgd = {name: stage.sgd for name, stage in stages.items()}
    adamw = {name: stage.adamw for name, stage in stages.items()}
    folder.mkdir(parents=True, exist_ok=True)
    plot_parabolas(sgd, folder / f"{name}_sgd.png", f"Steps of SGD in the run {name}")
    plot_parabolas(adamw, folder / f"{name}_adamw.png", f"Steps of AdamW in the run {name}, factors fitted", True)
    plot_errors(sgd, adamw, folder / f"{name}_errors.png", f"Errors of the predictions in the run {name}")
    page = PAGE.format(
        name=name,
        command=command,
        torch=torch.__version__,
        transformers=transformers.__version__,
        r_squared=R_SQUARED,
        curvature=CURVATURE,
        points=_points_table(sgd),
        holds="\n".join(_holds(stage, sweep) for stage, sweep in sgd.items()),
        sgd=_sgd_table(sgd),
        batches=len(next(iter(stages.values())).slopes),
        slopes=_slopes_table(stages),
        adamw=_adamw_table(adamw),
    )
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    return page


def _points_table(sweeps: Mapping[str, Sweep]) -> str:
    rows = [["stage", "λ of the run", "task loss", "KD loss", "a", "b", "c", "cosine", "√(a/b)", "feasible λ"]]
    for stage, sweep in sweeps.items():
        gram = gram_of(next(iter(sweep.products.values())))
        low, high = feasible_interval(gram)
        numbers = [sweep.weights[1] / sweep.weights[0], *sweep.losses, *(entry.item() for entry in gram)]
        rows.append([stage, *(f"{number:.4g}" for number in numbers), *_shape(gram), f"{low:.3g} to {high:.3g}"])
    return table_of(rows)


def _holds(stage: str, sweep: Sweep) -> str:
    rate = sweep.holds_up_to(next(iter(sweep.products)))
    return f"- {stage}: " + ("at no η" if rate is None else f"up to η = {rate:.1e}")


def _sgd_table(sweeps: Mapping[str, Sweep]) -> str:
    rows = [["stage", "η", "R² of the fit", "error of a", "of 2c", "of b", "of ΔL"]]
    for stage, sweep in sweeps.items():
        metric = next(iter(sweep.products))
        errors = torch.cat([sweep.coefficient_errors(metric), sweep.change_errors(metric)[:, None]], dim=-1)
        rows += _by_rate(stage, sweep, errors)
    return table_of(rows)


def _adamw_table(sweeps: Mapping[str, Sweep]) -> str:
    metrics = list(next(iter(sweeps.values())).products)
    errors_of = [f"{error}: {metric}" for error in ("error of ΔL", "of λ²") for metric in metrics]
    rows = [["stage", "η", "R² of the fit", *errors_of]]
    for stage, sweep in sweeps.items():
        changes = [sweep.change_errors(metric, scaled=True) for metric in metrics]
        curvatures = [sweep.coefficient_errors(metric, scaled=True)[:, 2] for metric in metrics]
        rows += _by_rate(stage, sweep, torch.stack([*changes, *curvatures], dim=-1))
    return table_of(rows)


def _by_rate(stage: str, sweep: Sweep, errors: Tensor) -> TableRows:
    """A row for each learning rate, of the `[rates, columns]` errors."""
    fits = sweep.fit().r_squared[:, 2].tolist()
    lines = zip(sweep.learning_rates, fits, errors.tolist(), strict=True)
    return [[stage, f"{rate:.1e}", f"{fit:.7f}", *map(_percent, line)] for rate, fit, line in lines]


def _slopes_table(stages: Mapping[str, Stage]) -> str:
    of_slopes = ["error of the slopes, mean", "worst", "√(a/b) off by", "cosine off by"]
    rows = [["stage", "prediction", *of_slopes, "error of ΔL, factor fitted", "without factor"]]
    for name, stage in stages.items():
        for metric in stage.adamw.products:
            errors = [slopes.error(metric) for slopes in stage.slopes]
            ratio = geometric_mean(slopes.ratio_error(metric) for slopes in stage.slopes)
            cosine = mean(slopes.cosine_error(metric) for slopes in stage.slopes)
            changes = [stage.adamw.change_errors(metric, scaled)[0].item() for scaled in (True, False)]
            of_slopes = [_percent(mean(errors)), _percent(max(errors)), f"×{ratio:.3f}", f"{cosine:.3f}"]
            rows.append([name, metric, *of_slopes, *map(_percent, changes)])
    return table_of(rows)


def _shape(gram: Gram) -> list[str]:
    """Cosine and ratio of the norms: most rules for λ depend on nothing else."""
    return [f"{gram.cosine.item():+.3f}", f"{(gram.task / gram.kd).sqrt().item():.3f}"]


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.2g}%" if percent < 99.5 else f"{percent:.0f}%" if share < 10 else f"{share:.0f}-fold"
