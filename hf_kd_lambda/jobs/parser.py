"""Settings from a YAML file, overridden by the command line; what is unknown is refused."""

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.command_line import (
    ScreenParser,
    check_setting,
    is_list,
    is_list_of_numbers,
    list_settings,
    members_of_type,
    options_of,
    split_list,
    with_lists,
)
from hf_kd_lambda.jobs.defaults import resolve_defaults
from hf_kd_lambda.jobs.yaml_file import YamlFile
from hf_kd_lambda.trainer.config import DistillationConfig

Settings = tuple[ModelArguments, DataArguments, DistillationConfig]

# Other settings that a setting of the command line replaces in the YAML file.
_REPLACED = {
    "teacher": ("teacher_architecture",),
    "teacher_architecture": ("teacher",),
    "student": ("student_layers", "student_architecture"),
    "student_layers": ("student", "student_architecture"),
    "student_architecture": ("student", "student_layers"),
    "dataset": ("train_file",),
    "train_file": ("dataset",),
    "unlabelled_dataset": ("unlabelled_file",),
    "unlabelled_file": ("unlabelled_dataset",),
    "label_column": ("label_columns",),
    "label_columns": ("label_column",),
}
# These belong to a train_file that a dataset replaces; next to a dataset they are given for it, and stay.
_OF_TRAIN_FILE = ("validation_file", "test_file")
_GROUPS = {
    "Models": {
        "teacher": "Hub id or folder; `quickstart`: a small encoder, no network needed",
        "teacher_finetune": "fine-tune the teacher on your labels first",
        "student": "Hub id or folder; or set student_layers",
        "student_layers": "make the student from these layers of the teacher, e.g. 0 5",
        "student_without_kd": "also train the student without the teacher, to compare",
    },
    "Data": {
        "problem": "text-, image-, token-classification, ...",
        "dataset": "Hub id or folder; or set train_file",
        "train_file": "csv, tsv, json, jsonl or parquet; for text-generation also txt",
        "validation_file": "without it, validation_share of the training examples is held out",
        "unlabelled_file": "further texts without a label; txt has one per line",
        "test_file": "if given, the scores at the end are on it",
        "text_column": "column of the text",
        "label_column": "column of the label",
        "max_length": "tokens to which texts are truncated",
        "class_weights": "balanced: rare classes weigh as much as frequent ones",
    },
    "λ and the losses": {
        "lambda_rule": "how the weight of the teacher is set; fixed: by kd_weight",
        "kd_weight": "weight of the KD loss, for lambda_rule fixed",
        "kd_losses": "e.g. '{soft_targets: 1, hidden_mse: 0.5}'; default: soft_targets",
        "temperature": "softens the probabilities of teacher and student",
    },
    "Training": {
        "num_train_epochs": "passes over the training examples",
        "learning_rate": "peak learning rate; small students often need 1e-4 or more",
        "per_device_train_batch_size": "examples of one batch",
        "early_stopping_patience": "stop after so many evaluations without a better score",
    },
    "Output": {
        "output_dir": "student, model card, report and results",
        "report_to": "trackers: tensorboard, wandb, ...",
        "push_to_hub": "push the finished student, to hub_model_id",
    },
}
_CLOSING = """\
--num_processes N trains with N processes. Defaults are in brackets; a run evaluates and saves at
each epoch and keeps the best student. --help-all shows all settings, those of TrainingArguments
too."""


@cache  # a comparison parses hundreds of runs
def _parser() -> ScreenParser:
    """Every field of the three dataclasses as an argument."""
    return ScreenParser(
        (ModelArguments, DataArguments, DistillationConfig),
        _GROUPS,
        _CLOSING,
        prog="hf-kd-lambda distill",
        usage="%(prog)s [config.yaml] [--setting value ...]",
        description="A setting on the command line replaces that of the YAML file.",
    )


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Read the settings: `[config.yaml] [--setting value ...]`.

    Args:
        argv: arguments of the command line. Default: those of the running program.

    Raises:
        ValueError: a setting is unknown, missing, of the wrong type, out of its range or twice in the file; or the
            file cannot be read.
    """
    command_line = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    types = {name: hint for group in parser.dataclass_types for name, hint in get_type_hints(group).items()}
    in_file = _read(command_line.pop(0), types) if command_line and _is_yaml(command_line[0]) else {}
    parser.check_names(command_line)
    command_line = with_lists(command_line, list_settings(types))
    on_line = _names(command_line)
    replaced = [other for name in on_line for other in _REPLACED.get(name, ())]
    if "dataset" in on_line and in_file.get("train_file") is not None:
        replaced += _OF_TRAIN_FILE
    for name in replaced:
        in_file.pop(name, None)
    # Text takes the way of the command line, and so its types; argparse leaves defaults alone that are no text.
    texts = [f"--{name}={value}" for name, value in in_file.items() if isinstance(value, str)]
    others = argparse.Namespace(**{name: value for name, value in in_file.items() if not isinstance(value, str)})
    values = parser.parse_args(texts + command_line, others)
    switch = str(values.fsdp).lower()
    if switch in ("true", "false"):  # text for argparse, of which TrainingArguments know only FSDP's old options
        values.fsdp = switch == "true" or None
    resolve_defaults(values, on_line | in_file.keys())
    try:
        return parser.parse_dict(deepcopy(vars(values)))  # defaults are the parser's, which is kept
    except TypeError as error:  # of a class of settings within TrainingArguments, such as AcceleratorConfig
        raise ValueError(f"a mapping among the settings has an entry that there is not: {error}") from None


def _is_yaml(argument: str) -> bool:
    return not argument.startswith("-") and argument.endswith((".yaml", ".yml"))


def _names(command_line: Sequence[str]) -> set[str]:
    """Names of the settings on a command line, in whichever spelling they are given."""
    return {option.replace("-", "_").removeprefix("no_") for option in options_of(command_line)}


def _read(path: str, types: dict[str, Any]) -> dict[str, Any]:
    """Settings of a YAML file: scalars as the text that they are, null, lists and mappings as Python has them."""
    file = YamlFile(Path(path))
    settings: dict[str, Any] = {}
    for name, node in file.items:
        check_setting(name, types, f"in {path}")
        value = file.value(node)
        if isinstance(value, str) and "," in value and is_list(types[name]):
            items = split_list(value, types[name])
            value = [yaml.safe_load(item) for item in items] if is_list_of_numbers(types[name]) else items
        settings[name] = value if value is None or isinstance(value, list | dict) else node.value
        if not _admits(types[name], settings[name]):
            raise ValueError(f"{name}={settings[name]!r} in {path} must be {_describe(types[name])}.")
    return settings


def _admits(hint: Any, value: Any) -> bool:
    """Whether a field of this type may be text (which argparse checks further), null, or this list or mapping."""
    kinds = {get_origin(member) or member: get_args(member) for member in members_of_type(hint)}
    if isinstance(value, str):
        return bool(kinds.keys() - {list, dict, NoneType})
    if isinstance(value, list):
        return list in kinds and all(isinstance(item, kinds[list]) for item in value)
    return type(value) in kinds


def _describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
