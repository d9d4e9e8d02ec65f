"""Cost of the teacher's cache as the number of examples grows: `python -m benchmarks.cache --output benchmarks/cache`.

Examples have 8 to 64 random tokens. The teacher is tiny, so that the cache's own work is measured. For each number of
examples, two processes train one step: the first one computes the cache, the second one finds it. CPU seconds of the
process run from the construction of the trainer to the first step, without the teacher's forwards. Memory is what the
process gains in private memory; pages of memory-mapped files do not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, load_from_disk
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, TrainerCallback, set_seed

from hf_kd_lambda import DistillationConfig, DistillationTrainer, student_from_layers
from hf_kd_lambda.data.bundled import encoder_path

COUNTS = (10_000, 100_000, 500_000)
SHORTEST, LONGEST, VOCABULARY, CLASSES = 8, 64, 30_522, 3
SIZES = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
SAMPLED = 0.05  # seconds between two readings of the memory


def write_examples(count: int, folder: Path) -> None:
    """Save random examples.

    Args:
        count: number of examples.
        folder: for `load_from_disk`.
    """
    generator = np.random.default_rng(0)
    lengths = generator.integers(SHORTEST, LONGEST + 1, count)
    ends = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
    tokens = pa.array(generator.integers(1000, VOCABULARY, lengths.sum()), pa.int32())
    mask = pa.array(np.ones(lengths.sum()), pa.int8())
    columns = {
        "input_ids": pa.ListArray.from_arrays(ends, tokens),
        "attention_mask": pa.ListArray.from_arrays(ends, mask),
        "labels": pa.array(generator.integers(0, CLASSES, count)),
    }
    Dataset(pa.table(columns)).save_to_disk(folder)


class FirstStep(TrainerCallback):
    """The CPU time at which the first step begins."""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Record it."""
        self.time = time.process_time()


class Forwards:
    """CPU seconds of all forwards of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.seconds = 0.0
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._end)

    def _start(self, *args: Any) -> None:
        self._begun = time.process_time()

    def _end(self, *args: Any) -> None:
        self.seconds += time.process_time() - self._begun


def start(examples: Path, folder: Path) -> dict[str, float]:
    """Train one step, with a cache that may exist.

    Args:
        examples: see `write_examples`.
        folder: The cache folder.

    Returns:
        CPU seconds until the first step, those of the teacher's forwards therein, and MB of private memory.
    """
    set_seed(0)
    torch.set_num_threads(1)
    config = BertConfig(vocab_size=VOCABULARY, num_labels=CLASSES, **SIZES)
    teacher = BertForSequenceClassification(config)
    student, data, first = student_from_layers(teacher, [0]), load_from_disk(examples), FirstStep()
    forwards = Forwards(teacher)
    with tempfile.TemporaryDirectory() as output, private_memory() as gained:
        begun = time.process_time()
        args = DistillationConfig(
            *(output,),
            max_steps=1,
            per_device_train_batch_size=32,
            teacher_cache_dir=str(folder),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(encoder_path())  # pads
        models = {"model": student, "teacher": teacher, "processing_class": tokenizer}
        DistillationTrainer(**models, args=args, train_dataset=data, callbacks=[first]).train()
    return {"seconds": first.time - begun, "teacher_seconds": forwards.seconds, "memory_mb": gained[0] / 1e6}


@contextmanager
def private_memory() -> Iterator[list[int]]:
    """The most private memory that the process gains meanwhile, in bytes: the only item of the list, at the end."""
    before, gained, ended = _private_bytes(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLED):
            gained[0] = max(gained[0], _private_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield gained
    finally:
        ended.set()
        thread.join()


def _private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def measure(count: int, root: Path) -> dict[str, float]:
    """Start twice with this number of examples, in two processes.

    Args:
        count: number of examples.
        root: scratch folder.
    """
    examples, folder = root / f"examples_{count}", root / f"cache_{count}"
    write_examples(count, examples)
    cold, warm = (_in_process(examples, folder) for _ in range(2))
    written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "examples": count,
        "microseconds_per_example": 1e6 * (cold["seconds"] - cold["teacher_seconds"]) / count,
        "bytes_per_example": written / count,
        "memory_mb": cold["memory_mb"],
        "warm_seconds": warm["seconds"],
        "warm_memory_mb": warm["memory_mb"],
    }


def _in_process(examples: Path, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.cache", "--start", str(examples), str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: Sequence[Mapping[str, float]]) -> str:
    """Markdown, a row for each number of examples."""
    head = ["examples", "cache computed: µs per example", "bytes per example", "MB", "cache found: seconds", "MB"]
    lines = [f"| {' | '.join(head)} |", "|---:" * len(head) + "|"]
    lines += [
        f"| {row['examples']:,} | {row['microseconds_per_example']:.0f} | {row['bytes_per_example']:.0f} "
        f"| {row['memory_mb']:.0f} | {row['warm_seconds']:.1f} | {row['warm_memory_mb']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write cache.json and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of examples")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--start", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        print(json.dumps(start(*args.start)))
        return
    args.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as root:
        for count in args.counts:
            rows.append(measure(count, Path(root)))
            (args.output / "cache.json").write_text(json.dumps(rows, indent=1) + "\n")
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
