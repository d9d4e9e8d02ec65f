"""Parsers whose help fits on one screen, and names of settings as people write them."""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

from transformers import HfArgumentParser

from hf_kd_lambda.utils.names import suggestion
from hf_kd_lambda.utils.paths import expand_home

Groups = Mapping[str, Mapping[str, str]]

INDENT = 32  # of the description in a line
SHORT_NAMES = {
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "n_epochs"), "num_train_epochs"),
    **dict.fromkeys(("lr", "rate"), "learning_rate"),
    **dict.fromkeys(("batch_size", "bs", "train_batch_size"), "per_device_train_batch_size"),
    **dict.fromkeys(("eval_batch_size", "test_batch_size"), "per_device_eval_batch_size"),
    **dict.fromkeys(("output", "out", "output_folder", "out_dir", "save_dir"), "output_dir"),
    **dict.fromkeys(("rule", "lambda", "strategy"), "lambda_rule"),
    **dict.fromkeys(("alpha", "weight", "kd_alpha", "kd_lambda"), "kd_weight"),
    **dict.fromkeys(("loss", "losses", "kd_loss"), "kd_losses"),
    **dict.fromkeys(("t", "temp", "tau"), "temperature"),
    **dict.fromkeys(("layers", "num_layers", "student_num_layers"), "student_layers"),
    **dict.fromkeys(("model", "student_model", "model_name_or_path"), "student"),
    **dict.fromkeys(("teacher_model", "teacher_name_or_path"), "teacher"),
    **dict.fromkeys(("finetune", "finetune_teacher"), "teacher_finetune"),
    **dict.fromkeys(("data", "dataset_name"), "dataset"),
    **dict.fromkeys(("train", "train_data", "csv"), "train_file"),
    **dict.fromkeys(("validation", "val_file", "eval_file", "dev_file"), "validation_file"),
    **dict.fromkeys(("test", "test_data"), "test_file"),
    **dict.fromkeys(("text", "text_field"), "text_column"),
    **dict.fromkeys(("label", "target", "label_field"), "label_column"),
    **dict.fromkeys(("sep", "separator"), "delimiter"),
    **dict.fromkeys(("max_len", "max_seq_length", "max_seq_len"), "max_length"),
    **dict.fromkeys(("patience", "early_stopping"), "early_stopping_patience"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("warmup", "warmup_ratio"), "warmup_steps"),
    **dict.fromkeys(("grad_accum", "accumulation_steps", "accumulate_steps"), "gradient_accumulation_steps"),
    **dict.fromkeys(("evaluation_strategy",), "eval_strategy"),
    **dict.fromkeys(("group_by_length",), "train_sampling_strategy"),
    **dict.fromkeys(("gpus", "num_gpus", "nproc_per_node"), "num_processes"),
}
"""Settings by what people commonly write instead."""


class ScreenParser(HfArgumentParser):
    """Fields of dataclasses as arguments; `--help` shows the common ones, and errors are raised.

    Args:
        groups: by title, the help text of common arguments by their names.
        closing: the last lines of that help.
        kwargs: see `HfArgumentParser`.
    """

    def __init__(self, dataclass_types: Iterable[type], groups: Groups, closing: str = "", **kwargs: Any) -> None:
        super().__init__(dataclass_types, add_help=False, allow_abbrev=False, **kwargs)
        self.groups = groups
        self.closing = closing
        hidden: dict[str, Any] = {"dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
        self.add_argument("-h", "--help", action=_ScreenHelp, nargs=0, help="show the common arguments", **hidden)
        self.add_argument("--help-all", "--help_all", action="help", help="show all arguments", **hidden)

    def error(self, message: str) -> NoReturn:
        """Raise the message, which argparse would print after a long usage."""
        raise ValueError(message)

    def check_names(self, argv: Sequence[str]) -> None:
        """Refuse options that there are not; the message suggests the setting that was probably meant."""
        known = [option.removeprefix("--") for action in self._actions for option in action.option_strings]
        names = [name for name in known if "-" not in name and not name.startswith("no_")]
        for option in options_of(argv):
            if option not in known:
                check_setting(option.replace("-", "_"), names, "on the command line")

    def screen(self) -> str:
        """What `--help` prints."""
        actions = {option.removeprefix("--"): action for action in self._actions for option in action.option_strings}
        lines = [self.format_usage().strip(), *([self.description] if self.description else [])]
        for title, texts in self.groups.items():
            lines += ["", f"{title}:", *(_line(name, actions[name].default, text) for name, text in texts.items())]
        return "\n".join([*lines, "", *([self.closing] if self.closing else [])])


class _ScreenHelp(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.screen())
        parser.exit()


def _line(name: str, default: Any, text: str) -> str:
    """An argument on one line, with its default if that is informative."""
    shown = getattr(default, "value", default)
    known = "" if shown in (None, argparse.SUPPRESS, "", False) else f" [{shown}]"
    return f"  --{name:{INDENT - 5}} {text}{known}"


def options_of(argv: Sequence[str]) -> list[str]:
    """Names of the options on a command line, as they are spelled."""
    return [word[2:].partition("=")[0] for word in argv if word.startswith("--") and word != "--"]


def check_setting(name: str, known: Iterable[str], where: str) -> None:
    """Refuse a setting that there is not.

    Raises:
        ValueError: names it, and the setting that was probably meant.
    """
    if name not in known:
        raise ValueError(f"unknown setting {name!r} {where}: {suggestion(name, known, SHORT_NAMES)}")


def is_list(hint: Any) -> bool:
    """Whether a field of this type takes a list, and no text."""
    return any(get_origin(member) is list for member in members_of_type(hint)) and str not in members_of_type(hint)


def is_list_of_numbers(hint: Any) -> bool:
    """Whether a field of this type takes a list of whole numbers."""
    return list[int] in members_of_type(hint)


def members_of_type(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another type, itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def split_list(text: str, hint: Any = list[str]) -> list[str]:
    """Items of `a b,c` or `[a b, c]`, which may have spaces and brackets in them; numbers also of `0 5`."""
    if text.startswith("["):
        text = text.removeprefix("[").removesuffix("]")
    marks = r"[\s,\[\]]" if is_list_of_numbers(hint) else ","
    return [expand_home(item.strip()) for item in re.split(marks, text) if item.strip()]


def with_lists(argv: Sequence[str], lists: Mapping[str, Any]) -> list[str]:
    """A command line whose lists are words, as argparse wants them.

    Args:
        argv: the command line.
        lists: types of the settings that take a list, by their names.
    """
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        hint = lists.get(option[2:].replace("-", "_")) if word.startswith("--") else None
        if hint is None:
            words.append(word)
            continue
        given = [value] if equals else []
        while rest and not rest[0].startswith("--"):
            given.append(rest.pop(0))
        words += [option, *_items(given, hint)]
    return words


def _items(given: list[str], hint: Any) -> list[str]:
    """Items of a list in one word or in several, of which each may be a name with a comma in it."""
    text = ",".join(given)
    is_one_text = (text.startswith("[") and text.endswith("]")) or any(word.endswith(",") for word in given)
    if len(given) > 1 and not is_one_text and not is_list_of_numbers(hint):
        return given
    return split_list(text, hint)


def list_settings(types: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that take a list, with their types."""
    return {name: hint for name, hint in types.items() if is_list(hint)}
