"""What a measuring step costs beside a fixed-λ step: `python scripts/benchmark.py [--pairs N] [--json FILE]`.

One run in which measuring and ordinary steps take turns (`lambda_interval: 2`; an ordinary step is the one that the
`fixed` rule takes), teacher online, on random tokens: 6-layer teacher, 3-layer student, hidden size 384.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, default_data_collator, set_seed

from hf_kd_lambda import DistillationConfig, DistillationTrainer, student_from_layers
from hf_kd_lambda.config import Precision

PEAK_RESET = Path("/proc/self/clear_refs")  # Linux: writing 5 sets the process's peak memory back to what it has now
EXACT_MALLOC = "MALLOC_MMAP_THRESHOLD_"
WARMUP_PAIRS = 3


class StepMeter(TrainerCallback):
    """Seconds and peak memory (bytes; None where it cannot be read) of each optimizer step, without data loading."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peaks: list[int | None] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        elif PEAK_RESET.exists():
            PEAK_RESET.write_text("5")
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        self.peaks.append(_peak_bytes())


def _peak_bytes() -> int | None:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if not PEAK_RESET.exists():
        return None
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure(pairs: int, batch: int, length: int, precision: Precision) -> dict[str, Any]:
    """Train for `pairs` measuring and as many ordinary steps in turn, after a warm-up.

    Returns:
        Medians in seconds, their ratio with the quartiles of the pairs' ratios, and memory in MB (10⁶ bytes).
    """
    set_seed(0)
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=6, num_labels=3, **sizes))
    student = student_from_layers(teacher, [0, 2, 5])
    steps = 2 * (WARMUP_PAIRS + pairs)
    tokens = torch.randint(1000, 30000, (steps * batch, length))
    labels = torch.randint(0, 3, (steps * batch,))
    data = Dataset.from_dict({"input_ids": tokens.numpy(), "labels": labels.numpy()}).with_format("torch")
    meter = StepMeter()
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(
            output_dir=folder,
            lambda_interval=2,
            max_steps=steps,
            per_device_train_batch_size=batch,
            precision=precision,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        DistillationTrainer(
            student,
            args,
            teacher=teacher,
            train_dataset=data,
            data_collator=default_data_collator,
            callbacks=[meter],
        ).train()
    return _summary(meter, student, {"batch": batch, "length": length, "precision": args.mixed_precision})


def _summary(meter: StepMeter, student: torch.nn.Module, setting: dict[str, Any]) -> dict[str, Any]:
    first = 2 * WARMUP_PAIRS
    measuring, ordinary = meter.seconds[first::2], meter.seconds[first + 1 :: 2]
    ratios = [a / b for a, b in zip(measuring, ordinary, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    peaks = [peak for peak in meter.peaks[first:] if peak is not None]
    extra = statistics.median(peaks[::2]) - statistics.median(peaks[1::2]) if peaks else float("nan")
    parameters = sum(parameter.numel() for parameter in student.parameters())
    return {
        **setting,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "pairs": len(ratios),
        "measuring_step_s": statistics.median(measuring),
        "fixed_step_s": statistics.median(ordinary),
        "measuring_step_ratio": statistics.median(measuring) / statistics.median(ordinary),
        "ratio_quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
        "extra_memory_mb": extra / 1e6,
        "gradient_copy_mb": 4 * parameters / 1e6,
    }


def measure_memory(batch: int, length: int, precision: str) -> float:
    """Extra peak memory of a measuring step, in MB, from a process of its own.

    By default glibc keeps freed blocks, so that a process's peak depends on its past; with a fixed threshold it hands
    large ones back at once, and the peak is what is in use.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        command = [sys.executable, __file__, "--pairs", "4", "--json", str(figures), "--precision", precision]
        command += ["--batch", str(batch), "--length", str(length)]
        subprocess.run(command, env={**os.environ, EXACT_MALLOC: "65536"}, check=True, capture_output=True)
        return json.loads(figures.read_text())["extra_memory_mb"]


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="pairs of a measuring and an ordinary step")
    parser.add_argument("--batch", type=int, default=32, help="examples")
    parser.add_argument("--length", type=int, default=48, help="tokens of an example")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    figures = measure(args.pairs, args.batch, args.length, args.precision)
    if EXACT_MALLOC not in os.environ and not torch.cuda.is_available() and PEAK_RESET.exists():
        figures["extra_memory_mb"] = measure_memory(args.batch, args.length, args.precision)
    for name, value in figures.items():
        print(f"{name:22} {value:.3f}" if isinstance(value, float) else f"{name:22} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
