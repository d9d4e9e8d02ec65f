"""Make the runs of a comparison that are not there yet."""

import dataclasses
import statistics
import time
import traceback
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState

from hf_kd_lambda.jobs.finetune import TrainingStoppedError
from hf_kd_lambda.studies.comparison.plan import Comparison
from hf_kd_lambda.studies.comparison.run_results import FILE, Cell, Run, append_run, finished, read_runs
from hf_kd_lambda.studies.comparison.runs import TaskRuns

SAME_SCORE = 0.002  # what rounding on another machine may do to a teacher's score


def compare(comparison: Comparison) -> None:
    """Make what of a comparison is not in its results.jsonl yet, and add each run when it is done.

    A run that fails is recorded with its error, and made anew the next time. Under `accelerate launch` all ranks must
    call this together, and each run is theirs together.

    Raises:
        ValueError: the file holds runs of other settings or another teacher, or the data or teacher of a task cannot
            be had.
        TrainingStoppedError: Ctrl-C or SIGTERM ended a run, which is made anew the next time.
    """
    file = Path(comparison.output_dir) / FILE
    done = {run.cell: run for run in finished(read_runs(file))}
    tasks = {task: TaskRuns(comparison, task) for task in comparison.tasks}
    for cell in comparison.cells():
        if cell in done:
            _check_same(done[cell], tasks[cell.task].begun(cell), file)
    missing = [cell for cell in comparison.cells() if cell not in done]
    PartialState().wait_for_everyone()  # so that all have read the file before it grows
    for task in dict.fromkeys(cell.task for cell in missing):
        _check_teacher([run for run in done.values() if run.task == task], tasks[task], file)
        print(f"{task}: the teacher scores {100 * tasks[task].teacher_score:.1f}", flush=True)

    spent: dict[str, list[float]] = defaultdict(list)
    for number, cell in enumerate(missing, start=1):
        start = time.perf_counter()
        run = _run(tasks[cell.task], cell)
        spent[cell.task].append(time.perf_counter() - start)
        if PartialState().is_main_process:
            append_run(file, run)
            print(_progress(run, f"{number}/{len(missing)}", _seconds_left(spent, missing[number:])), flush=True)


def _check_same(earlier: Run, now: Run, file: Path) -> None:
    # A setting that there was not yet has not decided anything.
    changed = sorted(name for name, value in earlier.settings.items() if now.settings.get(name) != value)
    if changed:
        raise ValueError(
            f"output_dir: {file} holds {', '.join(map(str, earlier.cell))} with another {', '.join(changed)}: choose "
            "another output_dir, or remove those lines."
        )


def _check_teacher(earlier: list[Run], task: TaskRuns, file: Path) -> None:
    scores = [run.teacher_score for run in earlier if run.teacher_score is not None]
    if any(abs(score - task.teacher_score) > SAME_SCORE for score in scores):
        raise ValueError(
            f"output_dir: {file} holds runs of {task.task} whose teacher scores {100 * scores[0]:.2f}, and the one in "
            f"{task.job.teacher_folder} scores {100 * task.teacher_score:.2f}: put the teacher of then there, or "
            "choose another output_dir."
        )


def _run(task: TaskRuns, cell: Cell) -> Run:
    try:
        return task.run(cell)
    except TrainingStoppedError:
        raise
    except Exception as error:  # whatever it is, it must not end the other runs
        if PartialState().num_processes > 1:
            raise  # other ranks, where nothing failed, would wait for ever
        traceback.print_exc()
        return dataclasses.replace(task.begun(cell), error=f"{type(error).__name__}: {error}")


def _seconds_left(spent: dict[str, list[float]], missing: list[Cell]) -> float:
    overall = statistics.fmean(seconds for each in spent.values() for seconds in each)
    return sum(statistics.fmean(spent[cell.task]) if spent[cell.task] else overall for cell in missing)


def _progress(run: Run, number: str, seconds_left: float) -> str:
    outcome = run.error or f"{100 * (run.score or 0):.2f} in {run.seconds:.0f} s"
    left = timedelta(seconds=round(seconds_left))
    return f"[{number}] {run.task}, {run.regime}, {run.rule}, seed {run.seed}: {outcome}; {left} left"
