"""results.jsonl of a comparison: a line a run, which says by itself what was run and what came of it."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

FILE = "results.jsonl"


class Cell(NamedTuple):
    """What tells a run of a comparison from the others; the names are the comparison's own."""

    task: str
    regime: str
    rule: str
    seed: int


@dataclass(frozen=True)
class Run:
    """A run of a comparison, finished or failed.

    Scores, metrics and agreements are fractions or correlations; seconds are of training, without evaluations.

    Args:
        task, regime, rule, seed: of its cell.
        rule_parameters: the settings that make the rule, by their names in `DistillationConfig`.
        settings: all that decides the student, the rule's among it.
        versions: of what computed it.
        commit: of this package's repository, ending in `+` where files differ from it; None outside of one.
        hardware: what it ran on.
        score: of the student after the last step; None for a run that failed.
        metrics: of the task, after the last step.
        agreement: with the teacher as it is on examples of which nothing is spoiled, after the last step.
        steps: optimizer steps.
        seconds: of them all.
        evaluations: `step`, `seconds` until then, `score` and `agreement`, in the order of the steps.
        log: `step` and what was logged of it: `lambda`, `kd_weight`, losses, and of rules that measure also
            `grad_norm_task`, `grad_norm_kd`, `grad_cosine` and `lambda_conflict`, the share of measurements at which
            the gradients pointed against each other.
        teacher_score: of the teacher on the same examples.
        error: why it failed; None for a run that did not.
        examples: that the score is of; None where an earlier version did not record it.
        standard_error: of the score over these examples, a fraction; None where it was not computed.
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
        """Where it belongs."""
        return Cell(self.task, self.regime, self.rule, self.seed)


def append_run(file: Path, run: Run) -> None:
    """Add a run in one step: a process killed meanwhile leaves the file as it was."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = file.read_bytes() if file.exists() else b""
    if lines and not lines.endswith(b"\n"):  # an editor's
        lines += b"\n"
    temporary = file.with_name(f"{file.name}.tmp")
    with temporary.open("wb") as copy:
        copy.write(lines + json.dumps(asdict(run), ensure_ascii=False).encode() + b"\n")
        copy.flush()
        os.fsync(copy.fileno())
    os.replace(temporary, file)


def read_runs(file: Path) -> list[Run]:
    """The runs of a file, of each cell the last; none where there is no file.

    Raises:
        ValueError: a line is no run; the message names it.
    """
    if not file.exists() or not file.stat().st_size:
        return []
    runs: dict[Cell, Run] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            run = Run(**json.loads(line))
        except (TypeError, ValueError) as error:
            names = ", ".join(column.name for column in fields(Run))
            raise ValueError(f"line {number} of {file} is no run ({error}): a run has {names}.") from None
        runs[run.cell] = run
    return list(runs.values())


def is_fixed(run: Run) -> bool:
    """Whether the run belongs to the sweep over fixed weights that a user would do."""
    return run.rule_parameters.get("lambda_rule") == "fixed"


def finished(runs: Iterable[Run]) -> list[Run]:
    """Those that did not fail."""
    return [run for run in runs if run.error is None]
