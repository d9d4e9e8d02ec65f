"""Settings from a YAML file, overridden by the command line; what is unknown is refused."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.yaml_file import YamlFile
from hf_kd_lambda.trainer.argument_ranges import check_training_arguments
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.utils.names import suggestion

Settings = tuple[ModelArguments, DataArguments, DistillationConfig]

# What a setting of the command line replaces in the YAML file, beside itself.
_REPLACED = {
    "teacher": ("teacher_architecture",),
    "teacher_architecture": ("teacher",),
    "student": ("student_layers", "student_architecture"),
    "student_layers": ("student", "student_architecture"),
    "student_architecture": ("student", "student_layers"),
    "dataset": ("train_file", "validation_file", "test_file"),
    "train_file": ("dataset",),
}
_PATHS = [
    *("teacher", "student", "teacher_dir", "dataset", "train_file", "validation_file", "test_file"),
    *("output_dir", "teacher_cache_dir"),
]


class _Parser(HfArgumentParser):
    """Every field of the three dataclasses as an argument; errors are raised, not printed after a long usage."""

    def __init__(self) -> None:
        super().__init__(
            (ModelArguments, DataArguments, DistillationConfig),
            usage="%(prog)s [config.yaml] [--setting value ...]",
            description="A setting on the command line replaces that of the YAML file.",
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Read the settings: `[config.yaml] [--setting value ...]`.

    Args:
        argv: arguments of the command line. Default: those of the running program.

    Raises:
        ValueError: a setting is unknown, missing, of the wrong type, out of its range or twice in the file; or the
            file cannot be read.
    """
    command_line = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser()
    types = {name: hint for group in parser.dataclass_types for name, hint in get_type_hints(group).items()}
    in_file = _read(command_line.pop(0), types) if command_line and _is_yaml(command_line[0]) else {}
    for name in _names(command_line):
        _check_known(name, [*types, "help"], "on the command line")
        for replaced in _REPLACED.get(name, ()):
            in_file.pop(replaced, None)
    # Text takes the way of the command line, and so its types; argparse leaves defaults alone that are no text.
    texts = [f"--{name}={value}" for name, value in in_file.items() if isinstance(value, str)]
    parser.set_defaults(**{name: value for name, value in in_file.items() if not isinstance(value, str)})
    values = parser.parse_args(texts + command_line)
    check_training_arguments(values)  # before TrainingArguments computes with them
    settings = parser.parse_dict(vars(values))
    _expand_home(settings)
    return settings


def _is_yaml(argument: str) -> bool:
    return not argument.startswith("-") and argument.endswith((".yaml", ".yml"))


def _names(command_line: Sequence[str]) -> set[str]:
    """Names of the settings on a command line, in whichever spelling they are given."""
    options = (argument[2:].partition("=")[0] for argument in command_line if argument.startswith("--"))
    return {option.replace("-", "_").removeprefix("no_") for option in options}


def _read(path: str, types: dict[str, Any]) -> dict[str, Any]:
    """Settings of a YAML file: scalars as the text that they are, null, lists and mappings as Python has them."""
    file = YamlFile(Path(path).expanduser())
    settings: dict[str, Any] = {}
    for name, node in file.items:
        _check_known(name, types, f"in {path}")
        value = file.value(node)
        settings[name] = value if value is None or isinstance(value, list | dict) else node.value
        if not _admits(types[name], settings[name]):
            raise ValueError(f"{name}={settings[name]!r} in {path} must be {_describe(types[name])}.")
    return settings


def _expand_home(settings: Settings) -> None:
    """Replace a leading `~` of a path, which a shell does not replace everywhere."""
    for group in settings:
        for name in _PATHS:
            value = getattr(group, name, None)
            if isinstance(value, str) and value.startswith("~"):
                setattr(group, name, str(Path(value).expanduser()))


def _check_known(name: str, known: Iterable[str], where: str) -> None:
    if name not in known:
        raise ValueError(f"unknown setting {name!r} {where}: {suggestion(name, known)}")


def _admits(hint: Any, value: Any) -> bool:
    """Whether a field of this type may be text (which argparse checks further), null, or this list or mapping."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = {get_origin(member) or member: get_args(member) for member in members}
    if isinstance(value, str):
        return bool(kinds.keys() - {list, dict, NoneType})
    if isinstance(value, list):
        return list in kinds and all(isinstance(item, kinds[list]) for item in value)
    return type(value) in kinds


def _describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
