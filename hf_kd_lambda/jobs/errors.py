"""How a command ends on an error: one line with the error and its fix."""

import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

LONGEST = 1000  # characters of a message
INTERRUPTED = "interrupted; rerun the same command to start again, or to resume from its last checkpoint."
TRACEBACK = "--traceback"
EXPECTED = (ValueError, OSError, ModuleNotFoundError)


class TrainingStoppedError(Exception):
    """A signal ended training early.

    Args:
        signum: number of the signal.
        folder: the folder of the checkpoint that has everything trained until then; None if the run begins again.
    """

    def __init__(self, signum: int, folder: str | None = None) -> None:
        what = "repeat the run that it ended" if folder is None else f"resume from the checkpoint in {folder}"
        super().__init__(f"stopped by a signal; rerun the same command to {what}.")
        self.signum = signum


class PushError(Exception):
    """A push failed; the message is one paragraph with the reason and the fix."""


@contextmanager
def ending_in_one_line(with_traceback: bool = False) -> Iterator[None]:
    """End the program with one line if something goes wrong, or a signal ends it.

    An error that no check of ours expects has its traceback in a file that the line names, because hours of training
    may lie before it.

    Args:
        with_traceback: let errors through, as Python prints them.
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)  # which Python answers without a word
    try:
        yield
    except TrainingStoppedError as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt as interrupt:
        if with_traceback:
            raise
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(128 + (interrupt.args or (signal.SIGINT,))[0])
    except Exception as error:
        if with_traceback:
            raise
        sys.exit(f"error: {one_line(error)}")
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)


def one_line(error: Exception) -> str:
    """The message of an error, on one line of bounded length."""
    if isinstance(error, (*EXPECTED, PushError)):
        return shortened(str(error) or type(error).__name__)
    message = shortened(f"{type(error).__name__}: {error}")
    try:
        with tempfile.NamedTemporaryFile("w", prefix="hf-kd-lambda-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
    except OSError:  # such as where the disk is full
        return f"{message} (unexpected; {TRACEBACK} prints the traceback)"
    return f"{message} (unexpected; the traceback is in {file.name})"


def shortened(text: str) -> str:
    """A text on one line, its middle left out if it is too long."""
    text = " ".join(text.split())
    if len(text) <= LONGEST:
        return text
    head, tail = LONGEST * 2 // 3, LONGEST // 3 - len(" … ")
    return f"{text[:head]} … {text[-tail:]}"
