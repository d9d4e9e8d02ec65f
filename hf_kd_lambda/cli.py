"""The command `hf-kd-lambda`: dispatches to the module of a sub-command, which parses the rest of the line."""

import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType, ModuleType
from typing import NoReturn

from hf_kd_lambda.jobs.errors import INTERRUPTED, TRACEBACK, ending_in_one_line
from hf_kd_lambda.utils.names import check_known
from hf_kd_lambda.utils.paths import expand_home

COMMANDS = {
    "distill": ("hf_kd_lambda.jobs.distill", "distil a student: [config.yaml] [--setting value ...]"),
    "evaluate": ("hf_kd_lambda.jobs.evaluate", "evaluate a saved model on any split"),
    "push": ("hf_kd_lambda.jobs.hub", "push a finished student to the Hub"),
    "export": ("hf_kd_lambda.jobs.onnx_export", "export a student to ONNX"),
    "compare": ("hf_kd_lambda.studies.comparison.compare", "compare rules for λ over tasks and seeds"),
    "probe": ("hf_kd_lambda.studies.probe.probe", "measure what a step does to both losses over λ"),
}
"""Module and summary of each sub-command. Modules are imported when called, since they take seconds to import."""
IN_PYTHON = (
    "label new examples in Python, with the lines in the README.md of the student's folder; for a csv file, see "
    "docs/guides/own_texts.md, After the run."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command; end with one line if something goes wrong.

    Args:
        argv: the sub-command and its arguments. Default: those of the running program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal or log in ASCII cannot show λ
    arguments = list(sys.argv[1:] if argv is None else argv)
    with_traceback = TRACEBACK in arguments
    arguments = [expand_home(word) for word in arguments if word != TRACEBACK]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger("hf_kd_lambda").setLevel(logging.ERROR)  # which the main process warns of, too
    with ending_in_one_line(with_traceback):
        name, *rest = arguments
        if name == "predict":
            raise ValueError(f"unknown command 'predict': {IN_PYTHON}")
        check_known(name, COMMANDS, "command")
        if os.environ.get("RANK", "0") == "0":
            print(f"hf-kd-lambda {name}: loading PyTorch and Transformers ...", file=sys.stderr, flush=True)
        command = _imported(COMMANDS[name][0])
        _imported("hf_kd_lambda.jobs.progress").hide_bars_of_weights()
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            _imported("hf_kd_lambda.utils.hardware").use_usable_cores()
        command.main(rest)


def _imported(module: str) -> ModuleType:
    """Import a module; a signal ends the program at once, since libraries swallow a KeyboardInterrupt in an import."""
    previous = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return import_module(module)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(128 + number)


def usage() -> str:
    """The sub-commands, and where to read on."""
    lines = [f"  {name:10}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hf-kd-lambda COMMAND ...",
            "",
            *lines,
            "",
            "hf-kd-lambda COMMAND --help shows the arguments of a command.",
            f"{TRACEBACK} prints the whole traceback of an error.",
        ]
    )


if __name__ == "__main__":
    main()
