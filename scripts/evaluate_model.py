"""Evaluate a saved model on any split: `python scripts/evaluate_model.py MODEL --dataset nyu-mll/glue --task sst2`.

MODEL is a Hub id or a folder. Prints metrics, parameters, size and latency, and with --teacher how far both agree. The
data settings are those of distill.py.
"""

import sys
from pathlib import Path

from transformers import HfArgumentParser

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.evaluate import evaluate_checkpoints
from hf_kd_lambda.jobs.job import MAIN_METRIC
from hf_kd_lambda.reports.results import results_table, write_results
from hf_kd_lambda.utils.versions import versions


def main() -> None:
    """Evaluate, print and write; end with a message instead of a traceback where a setting is wrong."""
    parser = HfArgumentParser(DataArguments, description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--split", help="train, validation or test; default: test if it has labels, else validation")
    parser.add_argument("--teacher", metavar="CHECKPOINT", help="compare with this model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--batch_size", type=int, default=32, help="examples of one forward")
    parser.add_argument("--trust_remote_code", action="store_true", help="run modelling code of a Hub repository")
    try:
        data, options = parser.parse_args_into_dataclasses(look_for_args_file=False)
        checkpoints = {"teacher": options.teacher} if options.teacher else {}
        checkpoints["model"] = options.model
        split, reports = evaluate_checkpoints(
            checkpoints, data, options.split, options.batch_size, options.trust_remote_code
        )
        print(f"On the {split} split:\n{results_table(reports, MAIN_METRIC)}")
        if options.json:
            facts = {"checkpoints": checkpoints, "task": data.task, "split": split, "versions": versions()}
            write_results(options.json, reports, MAIN_METRIC, None, facts)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
