"""What a job is doing, printed when it begins, and how fast it was, when it ends."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


class JobStage:
    """A part of a job.

    Attributes:
        examples: that were processed, for the rate; 0 where there is none.
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
