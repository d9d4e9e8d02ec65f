"""The command `compare`: make the missing runs of a comparison, then the report."""

import argparse
import dataclasses
import shlex
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState

from hf_kd_lambda.jobs.errors import TrainingStoppedError
from hf_kd_lambda.jobs.lock import locked
from hf_kd_lambda.studies.comparison.comparison_report import scores_and_files, write_comparison_report
from hf_kd_lambda.studies.comparison.plan import Comparison, load_comparison
from hf_kd_lambda.studies.comparison.regimes import LEARNED_BY_TEACHER
from hf_kd_lambda.studies.comparison.run_results import FILE, Cell, Run, append_run, finished, read_runs
from hf_kd_lambda.studies.comparison.runs import TaskRuns
from hf_kd_lambda.studies.comparison.same_settings import check_comparable

SAME_SCORE = 0.002  # rounding on another machine may change a teacher's score by this much
DESCRIPTION = """\
Compare rules for λ, over tasks, regimes and seeds. Runs that are in <output_dir>/results.jsonl already are not
repeated. Writes report.md and report.html next to it.

Under `accelerate launch` all processes make each run together. To spread runs over several GPUs instead, start
several commands, each with its own --seeds or --tasks, --output_dir and CUDA_VISIBLE_DEVICES, and join their
results.jsonl by `cat`. Commands that share a task share its teacher if the file names a `teacher_dir` for it."""


def main(argv: Sequence[str]) -> None:
    """The command `compare`.

    Args:
        argv: the command line.

    Raises:
        ValueError, OSError, ModuleNotFoundError: a setting is wrong.
        TrainingStoppedError: a signal stopped a run; the report of the finished ones is written.
        SystemExit: runs failed; the report lists them.
    """
    parser = argparse.ArgumentParser(
        prog="hf-kd-lambda compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", type=Path, help="YAML of the comparison")
    parser.add_argument("--glue", metavar="DIR", help="folder that replaces nyu-mll/glue of the Hub")
    parser.add_argument("--output_dir", help="replaces the file's")
    parser.add_argument("--report", action="store_true", help="make no run, only the report of the finished ones")
    for name in ("tasks", "regimes", "rules"):
        parser.add_argument(f"--{name}", nargs="+", metavar="NAME", help="only these; default: all of the file")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="only these; default: those of the file")
    args = parser.parse_args(argv)
    in_file = load_comparison(args.config, args.glue)
    comparison = in_file.in_folder(args.output_dir)
    stopped, failed = None, 0
    if not args.report:
        try:
            with locked("output_dir", Path(comparison.output_dir)):
                failed = compare(comparison.restricted_to(args.tasks, args.regimes, args.rules, args.seeds))
        except TrainingStoppedError as stop:
            stopped = stop
    if PartialState().is_main_process:
        folder = comparison.output_dir
        write_comparison_report(Path(folder), command_of(argv, folder, in_file.output_dir))
        print(scores_and_files(Path(folder)))
    if stopped:
        raise stopped
    if failed:
        sys.exit(f"{failed} of the runs failed: the report has their errors; rerun the same command to repeat them.")


def command_of(argv: Sequence[str], folder: str, own_folder: str) -> str:
    """The command that wrote a report, without an `--output_dir` that is the file's own.

    Args:
        argv: the command line.
        folder: the report's folder.
        own_folder: `output_dir` of the file.
    """
    words = list(argv)
    if folder == own_folder and "--output_dir" in words:
        del words[(index := words.index("--output_dir")) : index + 2]
    return shlex.join(["hf-kd-lambda", "compare", *words])


def compare(comparison: Comparison) -> int:
    """Make the runs that are missing in results.jsonl, and append each run when it is finished.

    A failed run is recorded with its error and repeated by the next call. Under `accelerate launch`, all ranks must
    call this together, and make each run together.

    Returns:
        The number of failed runs.

    Raises:
        ValueError: the file has runs with other settings or another teacher, or data or teacher of a task cannot be
            loaded.
        TrainingStoppedError: Ctrl-C or SIGTERM ended a run; the next call repeats it.
    """
    file = Path(comparison.output_dir) / FILE
    done = {run.cell: run for run in finished(read_runs(file))}
    tasks = {task: TaskRuns(comparison, task) for task in comparison.tasks}
    # Runs of other rules and seeds too: the report joins them.
    check_comparable(file, [*done.values()], [tasks[cell.task].begun(cell) for cell in comparison.cells()])
    missing = [cell for cell in comparison.cells() if cell not in done]
    PartialState().wait_for_everyone()  # all ranks read the file before runs are appended
    for task in dict.fromkeys(cell.task for cell in missing):
        _check_teacher([run for run in done.values() if run.task == task], tasks[task], file)
        print(f"{task}: the teacher scores {100 * tasks[task].teacher_score:.1f}", flush=True)

    failed = 0
    spent: dict[str, list[float]] = defaultdict(list)
    for number, cell in enumerate(missing, start=1):
        start = time.perf_counter()
        run = _run(tasks[cell.task], cell)
        spent[cell.task].append(time.perf_counter() - start)
        failed += run.error is not None
        if PartialState().is_main_process:
            append_run(file, run)
            print(_progress(run, f"{number}/{len(missing)}", _seconds_left(spent, missing[number:])), flush=True)
    return failed


def _check_teacher(earlier: list[Run], task: TaskRuns, file: Path) -> None:
    shared = [run for run in earlier if run.regime not in LEARNED_BY_TEACHER]
    scores = [run.teacher_score for run in shared if run.teacher_score is not None]
    if any(abs(score - task.teacher_score) > SAME_SCORE for score in scores):
        raise ValueError(
            f"output_dir: {file} has runs of {task.task} with a teacher that scores {100 * scores[0]:.2f}, but the "
            f"one in {task.job.teacher_folder} scores {100 * task.teacher_score:.2f}: restore the earlier teacher "
            "there, or choose another output_dir."
        )


def _run(task: TaskRuns, cell: Cell) -> Run:
    try:
        return task.run(cell)
    except TrainingStoppedError as stop:
        raise TrainingStoppedError(stop.signum) from None  # its checkpoint was in a temporary folder
    except Exception as error:  # no error of one run may end the other runs
        if PartialState().num_processes > 1:
            raise  # otherwise ranks without the error would wait forever
        traceback.print_exc()
        return dataclasses.replace(task.begun(cell), error=f"{type(error).__name__}: {error}")


def _seconds_left(spent: dict[str, list[float]], missing: list[Cell]) -> float:
    overall = statistics.fmean(seconds for of_task in spent.values() for seconds in of_task)
    return sum(statistics.fmean(spent[cell.task]) if spent[cell.task] else overall for cell in missing)


def _progress(run: Run, number: str, seconds_left: float) -> str:
    outcome = run.error or f"{100 * (run.score or 0):.2f} in {run.seconds:.0f} s"
    left = timedelta(seconds=round(seconds_left))
    return f"[{number}] {run.task}, {run.regime}, {run.rule}, seed {run.seed}: {outcome}; {left} left"
