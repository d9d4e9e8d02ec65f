"""What a job is doing, printed when it begins, and how fast it was, when it ends."""

import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import datasets
from huggingface_hub.utils import enable_progress_bars
from transformers.utils import logging

TERMINAL_WIDTH = 100  # characters


def print_wrapped(texts: Iterable[str]) -> None:
    """Print each text in lines of at most `TERMINAL_WIDTH` characters."""
    for text in texts:
        print(textwrap.fill(text, TERMINAL_WIDTH))


def hide_bars_of_weights() -> None:
    """Show no bars of the seconds in which weights are read and written; those of downloads stay.

    Where stderr is no terminal, show none of data sets either.
    """
    logging.disable_progress_bar()
    enable_progress_bars()  # which are shown on a terminal alone
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


class JobStage:
    """A part of a job.

    Attributes:
        examples: number of processed examples, for the rate; 0 for no rate.
    """

    def __init__(self) -> None:
        self.examples = 0


@contextmanager
def stage(name: str) -> Iterator[JobStage]:
    """Print the name of a part of the job, and afterwards its seconds and examples per second.

    One process of several prints.
    """
    prints = os.environ.get("RANK", "0") == "0"
    if prints:
        print(f"[{name}] ...", flush=True)
    current, start = JobStage(), time.perf_counter()
    yield current
    if prints:
        print(f"[{name}] {finished_line(current.examples, time.perf_counter() - start)}", flush=True)


def finished_line(examples: int, seconds: float) -> str:
    """`1,200 examples in 2.0 s (600/s)`, or the seconds alone."""
    if not examples:
        return f"{seconds:.1f} s"
    return f"{examples:,} examples in {seconds:.1f} s ({examples / max(seconds, 1e-9):,.0f}/s)"
