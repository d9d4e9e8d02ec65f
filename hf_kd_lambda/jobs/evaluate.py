"""The command `evaluate`: scores of a saved model on any examples."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hf_kd_lambda.data.arguments import DataArguments, EvaluatedData
from hf_kd_lambda.jobs.command_line import ScreenParser, list_settings, options_of, with_lists
from hf_kd_lambda.jobs.evaluation import evaluate_checkpoints
from hf_kd_lambda.jobs.progress import print_wrapped
from hf_kd_lambda.reports.class_scores import class_rows
from hf_kd_lambda.reports.results import aligned, results_table, score_notes, write_results
from hf_kd_lambda.utils.run_files import RESULTS
from hf_kd_lambda.utils.versions import versions

DESCRIPTION = """\
Evaluate a saved model on a file, or on any split of a dataset: scores, parameters, size and latency. The folder of a
student brings its problem, max_length and columns."""
_OF_STUDENT = (
    *("problem", "problem_type", "text_pair_column", "label_columns", "label_separator", "max_length", "doc_stride"),
    "validation_share",  # else examples that the student has learned could be among those held out
)
_COLUMNS = ("text_column", "label_column", "image_column")
_SPLIT_HELP = (
    "train, validation or test, or validation_mismatched of MNLI; default: test if it has labels, else validation"
)
DATA_GROUP = {
    "Data, as for distill": {
        "dataset": "Hub id or folder, instead of DATA",
        "test_file": "csv, tsv, json, jsonl or parquet, instead of DATA",
        "text_column": "column of the text",
        "label_column": "column of the label",
        "delimiter": "of a csv or tsv",
        "task": "GLUE task",
        "problem": "text-, image-, token-classification, ...",
        "max_length": "tokens to which texts are truncated",
    },
}
_GROUPS = {
    "What": {
        "teacher": "Hub id or folder: also evaluate this model, and the agreement of both",
        "split": _SPLIT_HELP,
        "json": "write the results to this file, too",
        "batch_size": "examples of one forward",
        "trust_remote_code": "run modelling code of a Hub repository",
    },
    **DATA_GROUP,
}


def main(argv: Sequence[str]) -> None:
    """The command `evaluate`: prints a table, and writes it where asked to.

    Args:
        argv: the command line.

    Raises:
        ValueError, OSError: see `evaluate_checkpoints`.
    """
    parser = ScreenParser(
        (EvaluatedData,),
        _GROUPS,
        "--help-all shows all arguments.",
        prog="hf-kd-lambda evaluate",
        usage="%(prog)s MODEL [DATA] [--setting value ...]",
        description=DESCRIPTION,
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder")
    parser.add_argument("--split", help=_SPLIT_HELP)
    parser.add_argument("--teacher", metavar="CHECKPOINT", help="compare with this model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--batch_size", type=int, default=32, help="examples of one forward")
    parser.add_argument("--trust_remote_code", action="store_true", help="run modelling code of a Hub repository")
    values, data = with_data(parser, argv)
    if values.json and (values.json.is_dir() or not values.json.parent.is_dir()):
        raise ValueError(f"json={str(values.json)!r} is a folder, or in a folder that does not exist: name a file.")
    checkpoints = {"teacher": values.teacher} if values.teacher else {}
    checkpoints["model"] = values.model
    split, reports, chance = evaluate_checkpoints(
        checkpoints, data, values.split, values.batch_size, values.trust_remote_code
    )
    report = reports[-1]
    print(f"On {_source(data, split)}, {report.examples:,} examples:\n\n{results_table(reports, chance)}\n")
    print_wrapped(score_notes(reports, chance=chance))
    if report.classes:
        print(f"\nThe {report.name}, by class:\n\n{aligned(class_rows(report.classes))}")
    if values.json:
        facts = {"checkpoints": checkpoints, "task": data.task, "split": split, "versions": versions()}
        write_results(values.json, reports, None, facts, chance)


def _source(data: DataArguments, split: str) -> str:
    """The file of a split, or the split and where it is from."""
    file = {"validation": data.validation_file, "test": data.test_file}.get(split)
    return file or f"the {split} split of {data.dataset or data.train_file}"


def with_data(parser: ScreenParser, argv: Sequence[str]) -> tuple[argparse.Namespace, EvaluatedData]:
    """The arguments of a command on a model and on data, for which the run of a student gives defaults.

    Args:
        parser: of the command, with the argument `model` and the fields of `EvaluatedData`.
        argv: the command line.

    Raises:
        ValueError: an argument is unknown, wrong or missing.
    """
    parser.add_argument("data", metavar="DATA", nargs="?", help="file or folder of examples")
    parser.check_names(argv)
    words = with_lists(argv, list_settings(get_type_hints(EvaluatedData)))
    given = {name.replace("-", "_") for name in options_of(argv)}
    recorded = recorded_settings(parser.parse_args(words).model)
    left_out = {"label_columns"} if given & {"label_column", "task"} else set()
    left_out |= {"problem_type"} if "task" in given else set()
    parser.set_defaults(**{name: recorded[name] for name in _OF_STUDENT if name in recorded.keys() - left_out})
    values = parser.parse_args(words)
    if values.data is not None:
        setting = "dataset" if Path(values.data).is_dir() else "test_file"
        if (other := getattr(values, setting)) is not None:
            raise ValueError(f"DATA={values.data!r} and {setting}={other!r}: give one of them.")
        setattr(values, setting, values.data)
    (data,) = parser.parse_dict(vars(values), allow_extra_keys=True)
    if values.data is not None:  # a folder of examples that no model was trained on
        data.lone_split = "test"
    data.columns_of_run = {name: recorded[name] for name in _COLUMNS if name in recorded.keys() - given}
    return values, data


def recorded_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of a student's run that are not the defaults; none of another model.

    Args:
        folder: with `results.json`.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(DataArguments)}
    try:
        recorded = dict(json.loads((Path(folder) / RESULTS).read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return {name: recorded[name] for name in defaults if recorded.get(name, defaults[name]) != defaults[name]}
