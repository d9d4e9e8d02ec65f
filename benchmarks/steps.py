"""Seconds and memory of four kinds of optimizer steps that alternate in one run, on random tokens.

Measuring and ordinary steps (an ordinary step is that of the rule `fixed`), with the teacher online and with cached
logits. Defaults: a 6-layer teacher, a 3-layer student and hidden size 384.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, default_data_collator, set_seed
from transformers.hf_argparser import string_to_bool

from hf_kd_lambda import DistillationConfig, DistillationTrainer, student_from_layers
from hf_kd_lambda.trainer.config import Precision
from hf_kd_lambda.utils.hardware import hardware

KINDS = ("online_measuring", "online_fixed", "cached_measuring", "cached_fixed")
WARMUP_ROUNDS = 2
PEAK_RESET = Path("/proc/self/clear_refs")  # Linux: writing 5 resets the process's peak memory to its present memory
EXACT_MALLOC = "MALLOC_MMAP_THRESHOLD_"
SHARDED: dict[str, Any] = {
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]},
}


@dataclass(frozen=True)
class StepSetting:
    """Sizes and precision of a step.

    Args:
        student_layers: number of the student's layers.
        batch: examples, on each rank.
        length: tokens of an example.
        precision: fp32, bf16 or fp16.
        optim: see `TrainingArguments`.
        least_teacher_layers: lower bound of the teacher's number of layers, which is never below the student's.
        hidden: size of the hidden states, divisible by 12, the number of heads.
        compile: whether torch compiles the student.
        shard: whether FSDP2 shards the student; needs a launcher.
    """

    student_layers: int = 3
    batch: int = 32
    length: int = 48
    precision: Precision = "fp32"
    optim: str = "adamw_torch_fused"
    least_teacher_layers: int = 6
    hidden: int = 384
    compile: bool = False
    shard: bool = False

    @property
    def teacher_layers(self) -> int:
        """Layers of the teacher."""
        return max(self.least_teacher_layers, self.student_layers)


class StepMeter(TrainerCallback):
    """Seconds, the process's CPU seconds and peak memory (bytes; None if unknown) of steps, without data loading."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.peaks: list[int | None] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        elif PEAK_RESET.exists():
            PEAK_RESET.write_text("5")
        self._start, self._cpu_start = time.perf_counter(), time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        self.cpu_seconds.append(time.process_time() - self._cpu_start)
        self.peaks.append(_peak_bytes())


class TakingTurns(DistillationTrainer):
    """Runs its teacher in the first two of four steps; with `lambda_interval` 2, the four kinds alternate."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One step of the next kind."""
        if KINDS[self.state.global_step % 4].startswith("online"):
            del inputs["teacher_logits"]
        return super().training_step(model, inputs, num_items_in_batch)


def measure(setting: StepSetting, rounds: int) -> dict[str, Any]:
    """Train for this number of rounds of all four kinds, after a warm-up.

    Returns:
        Seconds, CPU seconds, and peak memory in MB (10⁶ bytes) if known, for each kind and round; the student's
        parameters, and whether they are sharded; the scale of the loss in fp16, which is halved at each overflow.
    """
    set_seed(0)
    sizes = {"hidden_size": setting.hidden, "num_attention_heads": 12, "intermediate_size": 4 * setting.hidden}
    teacher = BertForSequenceClassification(
        BertConfig(num_hidden_layers=setting.teacher_layers, num_labels=3, **sizes)
    )
    kept = torch.linspace(0, setting.teacher_layers - 1, setting.student_layers).round().int().tolist()
    student = student_from_layers(teacher, kept)
    steps = len(KINDS) * (WARMUP_ROUNDS + rounds)
    count = steps * setting.batch * int(os.environ.get("WORLD_SIZE", "1"))
    columns = {
        "input_ids": torch.randint(1000, 30000, (count, setting.length)),
        "labels": torch.randint(0, 3, (count,)),
        "teacher_logits": torch.randn(count, 3),
    }
    data = Dataset.from_dict({name: values.numpy() for name, values in columns.items()}).with_format("torch")
    meter = StepMeter()
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(
            output_dir=folder,
            lambda_rule="adaptive",
            lambda_interval=2,
            max_steps=steps,
            per_device_train_batch_size=setting.batch,
            precision=setting.precision,
            optim=setting.optim,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            torch_compile=setting.compile,
            **(SHARDED if setting.shard else {}),
        )
        trainer = TakingTurns(
            student,
            args,
            teacher=teacher,
            train_dataset=data,
            data_collator=default_data_collator,
            callbacks=[meter],
        )
        trainer.train()
    first, scaler = len(KINDS) * WARMUP_ROUNDS, trainer.accelerator.scaler
    return {
        "setting": dataclasses.asdict(setting),
        "parameters": student.num_parameters(),
        "non_embedding_parameters": student.num_parameters(exclude_embeddings=True),
        "sharded": any(isinstance(parameter, DTensor) for parameter in student.parameters()),
        "loss_scale": None if scaler is None else scaler.get_scale(),
        "seconds": {kind: meter.seconds[first + index :: len(KINDS)] for index, kind in enumerate(KINDS)},
        "cpu_seconds": {kind: meter.cpu_seconds[first + index :: len(KINDS)] for index, kind in enumerate(KINDS)},
        "peak_mb": {
            kind: [peak / 1e6 for peak in meter.peaks[first + index :: len(KINDS)] if peak is not None]
            for index, kind in enumerate(KINDS)
        },
    }


def summary(measured: dict[str, Any], interval: int) -> dict[str, Any]:
    """Ratios to the fixed step with the teacher online, from medians.

    Args:
        measured: the result of `measure`.
        interval: K; every K-th step measures.
    """
    seconds = {kind: statistics.median(values) for kind, values in measured["seconds"].items()}
    fixed = seconds["online_fixed"]
    ratios = [
        measuring / ordinary
        for measuring, ordinary in zip(
            measured["seconds"]["online_measuring"], measured["seconds"]["online_fixed"], strict=True
        )
    ]
    peaks = {kind: statistics.median(values) for kind, values in measured["peak_mb"].items() if values}
    return {
        **measured["setting"],
        "hardware": hardware(),
        "torch": torch.__version__,
        "rounds": len(ratios),
        **{f"{kind}_s": value for kind, value in seconds.items()},
        "measuring_step_ratio": seconds["online_measuring"] / fixed,
        "measuring_step_ratio_range": [min(ratios), max(ratios)],
        "lambda_interval": interval,
        "mean_step_ratio": mean_step(seconds["online_measuring"], fixed, interval) / fixed,
        "cached_step_ratio": mean_step(seconds["cached_measuring"], seconds["cached_fixed"], interval) / fixed,
        "extra_memory_mb": peaks["online_measuring"] - peaks["online_fixed"] if peaks else float("nan"),
        "gradient_copy_mb": 4 * measured["parameters"] / 1e6,
    }


def mean_step(measuring: float, fixed: float, interval: int) -> float:
    """Mean seconds of a step if one in `interval` measures."""
    return (measuring + (interval - 1) * fixed) / interval


def measure_alone(
    setting: StepSetting, rounds: int, launcher: Sequence[str] = (), limit: float | None = None
) -> dict[str, Any]:
    """`measure` in a separate process, for exact peak memory.

    By default glibc keeps freed blocks, so that a process's peak depends on its past; with a fixed threshold it
    returns large blocks at once. That costs time.

    Args:
        setting, rounds: as in `measure`.
        launcher: command that starts several ranks. Without it: one process, with exact memory but, on the CPU, wrong
            times.
        limit: seconds that the process may take.

    Raises:
        subprocess.SubprocessError: it failed, or took longer.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        options = [f"--{name}={value}" for name, value in dataclasses.asdict(setting).items()]
        command = [
            *(launcher or [sys.executable]),
            "-m",
            "benchmarks.steps",
            f"--rounds={rounds}",
            f"--json={figures}",
        ]
        environment = dict(os.environ)
        if not launcher and not torch.cuda.is_available():
            environment[EXACT_MALLOC] = "65536"
        root = Path(__file__).parents[1]
        whole = [*command, *options]
        _run(whole, environment, root, limit)
        return json.loads(figures.read_text())


def _run(command: Sequence[str], environment: dict[str, str], folder: Path, limit: float | None) -> None:
    """As `subprocess.run`, but the processes that a launcher has started also end at the time limit."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            _, errors = process.communicate(timeout=limit)
        except BaseException:
            for started in [*psutil.Process(process.pid).children(recursive=True), process]:
                started.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command), stderr=errors)


def _peak_bytes() -> int | None:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if not PEAK_RESET.exists():
        return None
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure in this process and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(StepSetting):
        kind = string_to_bool if isinstance(field.default, bool) else type(field.default)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, required=True)
    options = vars(parser.parse_args())
    rounds, file = options.pop("rounds"), options.pop("json")
    measured = measure(StepSetting(**options), rounds)
    if os.environ.get("RANK", "0") == "0":
        file.write_text(json.dumps(measured | {"hardware": hardware()}) + "\n")


if __name__ == "__main__":
    main()
