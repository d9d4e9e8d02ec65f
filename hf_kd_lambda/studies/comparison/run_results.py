"""results.jsonl of a comparison: one self-contained line per run, with its settings and its results."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from hf_kd_lambda.utils.paths import write_at_once

FILE = "results.jsonl"


class Cell(NamedTuple):
    """The key of a run in a comparison; the names are those of the comparison."""

    task: str
    regime: str
    rule: str
    seed: int


@dataclass(frozen=True)
class Run:
    """A run of a comparison, finished or failed.

    Scores, metrics and agreements are fractions or correlations; seconds are of training, without evaluations.

    Args:
        task, regime, rule, seed: its cell.
        rule_parameters: the settings that make the rule, by their names in `DistillationConfig`.
        settings: all that decide the student, those of the rule included.
        versions: versions of the libraries.
        commit: commit of this package's repository, with a final `+` if files differ; None outside of a repository.
        hardware: processor or accelerator.
        score: the student's score after the last step; None for a run that failed.
        metrics: the task's metrics after the last step.
        agreement: with the unchanged teacher on unchanged examples, after the last step.
        steps: optimizer steps.
        seconds: time of all steps.
        evaluations: `step`, `seconds` until then, `score` and `agreement`, in the order of the steps.
        log: `step` and its logged values, see `LOGGED` in `runs.py`; a rule that measures has more of them.
        teacher_score: the score on the same examples of the teacher of the cell, whose outputs a regime may change.
        error: error of a failed run, else None.
        examples: number of examples in the score; None if an earlier version did not record it.
        standard_error: standard error of the score over these examples, a fraction; None if it was not computed.
    """

    task: str
    regime: str
    rule: str
    seed: int
    rule_parameters: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    hardware: str
    score: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None
    steps: int = 0
    seconds: float = 0.0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    log: list[dict[str, float]] = field(default_factory=list)
    teacher_score: float | None = None
    error: str | None = None
    examples: int | None = None
    standard_error: float | None = None

    @property
    def cell(self) -> Cell:
        """Its key."""
        return Cell(self.task, self.regime, self.rule, self.seed)


def append_run(file: Path, run: Run) -> None:
    """Add a run atomically: if the process is killed, the file is unchanged."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_text(encoding="utf-8") if file.exists() else ""
    if lines and not lines.endswith("\n"):  # after editing by hand
        lines += "\n"
    write_at_once(file, f"{lines}{json.dumps(asdict(run), ensure_ascii=False)}\n")


def read_runs(file: Path) -> list[Run]:
    """The runs of a file, the last one of each cell; none if there is no file.

    Raises:
        ValueError: a line is not a run; the message names the line.
    """
    if not file.exists() or not file.stat().st_size:
        return []
    runs: dict[Cell, Run] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            run = Run(**json.loads(line))
        except (TypeError, ValueError) as error:
            names = ", ".join(column.name for column in fields(Run))
            raise ValueError(f"line {number} of {file} is not a run ({error}): a run has {names}.") from None
        runs[run.cell] = run
    return list(runs.values())


def is_fixed(run: Run) -> bool:
    """Whether the run belongs to the sweep over fixed weights."""
    return run.rule_parameters.get("lambda_rule") == "fixed"


def finished(runs: Iterable[Run]) -> list[Run]:
    """Those that did not fail."""
    return [run for run in runs if run.error is None]
