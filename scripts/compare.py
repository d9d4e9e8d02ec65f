"""Hold rules for λ against each other: `python scripts/compare.py configs/compare_rules.yaml`.

Runs that are already in `<output_dir>/results.jsonl` are not made again. Writes report.md and report.html beside it.
Under `accelerate launch` each run is made by all processes together. To spread runs over several GPUs instead, give
each of several commands its own `--seeds` or `--tasks`, `--output_dir` and CUDA_VISIBLE_DEVICES, and join their
results.jsonl by `cat`. Commands that share a task share its teacher where the file gives it a `teacher_dir`: start the
others when the first has fine-tuned it.
"""

import argparse
import shlex
import sys
from pathlib import Path

from accelerate import PartialState

from hf_kd_lambda.jobs.finetune import TrainingStoppedError
from hf_kd_lambda.studies.comparison.compare import compare
from hf_kd_lambda.studies.comparison.comparison_report import write_report
from hf_kd_lambda.studies.comparison.plan import load_comparison


def main() -> None:
    """Make the runs, then the report; end with a message where a setting is wrong or a signal stopped a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", type=Path, help="YAML of the comparison")
    parser.add_argument("--glue", metavar="DIR", help="folder that stands in for nyu-mll/glue of the Hub")
    parser.add_argument("--output_dir", help="instead of the file's")
    parser.add_argument("--report", action="store_true", help="make no run, only the report of those that are there")
    for name in ("tasks", "regimes", "rules"):
        parser.add_argument(f"--{name}", nargs="+", metavar="NAME", help="only these; default: all of the file")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="only these; default: those of the file")
    args = parser.parse_args()
    stopped = None
    try:
        comparison = load_comparison(args.config, args.glue, args.output_dir)
        if not args.report:
            compare(comparison.restricted_to(args.tasks, args.regimes, args.rules, args.seeds))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except TrainingStoppedError as stop:
        stopped = stop
    if PartialState().is_main_process:
        command = shlex.join(["python", "scripts/compare.py", *sys.argv[1:]])
        print(write_report(Path(comparison.output_dir), command))
    if stopped:
        sys.exit(128 + stopped.signum)


if __name__ == "__main__":
    main()
