"""Whole trainings on SST-2 by this package and by alternatives, one after the other, each in its own process."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.jobs.run_folder import RECORD_FILE

ROOT = Path(__file__).parents[1]


class Line(NamedTuple):
    """A row of the table: a contender with its precision and loader."""

    contender: str
    precision: str = "fp32"
    grouped: bool = False

    @property
    def label(self) -> str:
        """Its name in files and tables."""
        return "-".join([self.contender, self.precision, *(["grouped"] if self.grouped else [])])


OURS = [Line("ours"), Line("ours", "bf16")]
CONTENDERS = {
    "plain": [Line("plain")],
    "grouped": [Line("plain", grouped=True), Line("plain", "bf16", grouped=True)],
    "textbrewer": [Line("textbrewer")],
    "torchdistill": [Line("torchdistill")],
}
PEAK = "gemm_peak-{}.json"  # of a seed


def compare(
    names: Iterable[str], data: str, teacher: str, examples: int, epochs: int, seeds: Sequence[int], folder: Path
) -> None:
    """Make the missing runs, seed by seed, and print the table.

    Args:
        names: keys of `CONTENDERS`.
        data: Hub id or folder of GLUE.
        teacher: encoder to fine-tune as the teacher, which is not timed; or the folder of a fine-tuned one.
        examples: number of training sentences.
        epochs: number of epochs.
        seeds: one run for each.
        folder: where one JSON file per run and the teacher are saved.

    Raises:
        ValueError: the folder has runs with another number of examples or epochs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*-[0-9]*.json"):
        run = {"examples": examples, "epochs": epochs} | json.loads(file.read_text())
        if (run["examples"], run["epochs"]) != (examples, epochs):
            raise ValueError(
                f"{file} has {run['examples']} examples and {run['epochs']} epochs, but --examples is {examples} and "
                f"--epochs is {epochs}: choose another --output."
            )
    fine_tuned = fine_tune(data, teacher, examples, folder)
    lines = OURS + [line for name in names for line in CONTENDERS[name]]
    for seed in seeds:
        if not (peak := folder / PEAK.format(seed)).exists():
            peak.write_text(json.dumps({name: gemm_peak(name) for name in ("fp32", "bf16")}) + "\n")
        for line in lines:
            file = folder / f"{line.label}-{seed}.json"
            if not file.exists():
                print(f"seed {seed}: {line.label}", flush=True)
                _run(line, fine_tuned, data, examples, epochs, seed, file)
    print(table(folder))


def fine_tune(data: str, teacher: str, examples: int, folder: Path) -> Path:
    """Fine-tune the teacher with configs/sst2.yaml on this number of sentences, unless it is fine-tuned already."""
    if (Path(teacher) / RECORD_FILE).exists():
        return Path(teacher)
    target = folder / "teacher"
    line = [str(ROOT / "configs" / "sst2.yaml"), "--dataset", data, "--teacher", teacher, "--student_layers", "0"]
    line += ["--max_train_samples", str(examples), "--output_dir", str(folder / "job"), "--teacher_dir", str(target)]
    DistillationJob(*parse([*line, "--report_to", "none"])).load_teacher()
    return target


def _run(line: Line, teacher: Path, data: str, examples: int, epochs: int, seed: int, file: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.contenders", line.contender, f"--teacher={teacher.resolve()}"]
    command += [f"--data={Path(data).resolve() if Path(data).exists() else data}", f"--examples={examples}"]
    command += [f"--epochs={epochs}"]
    command += [f"--seed={seed}", f"--precision={line.precision}", f"--json={file.resolve()}"]
    command += ["--grouped"] if line.grouped else []
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{line.label} failed:\n{ended.stderr}")


def gemm_peak(precision: str, size: int = 2048, repeats: int = 30, device: str = "cpu") -> float:
    """Floating-point operations per second of the fastest of several square matrix products."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b)
        if device != "cpu":
            torch.accelerator.synchronize()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def table(folder: Path) -> str:
    """Markdown of all runs in the folder: medians, ranges, ratios of ours to each, and model FLOPs utilisation.

    Ratios are medians over common seeds. Utilisation is relative to the peak measured before each seed, because the
    machine's speed varies. A record without `seconds` is from a run that shared the machine: only its accuracy counts.
    """
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for line in [*(line for lines in CONTENDERS.values() for line in lines), *OURS]:
        files = sorted(folder.glob(f"{line.label}-[0-9]*.json"))
        if files:
            runs[line.label] = {int(file.stem.rpartition("-")[-1]): json.loads(file.read_text()) for file in files}
    rows = [
        "| trainer | timed runs | seconds, median (min–max) | ours fp32 / it | ours bf16 / it "
        "| accuracy, mean (each) | model FLOPs utilisation |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, by_seed in runs.items():
        timed = {seed: run for seed, run in by_seed.items() if "seconds" in run}
        times = [run["seconds"] for run in timed.values()]
        scores = [100 * run["accuracy"] for run in by_seed.values()]
        ratios = " | ".join(_ratio(runs[line.label], timed) for line in OURS)
        used = statistics.median(_utilisation(run, folder / PEAK.format(seed)) for seed, run in timed.items())
        seconds = f"{statistics.median(times):.0f} ({min(times):.0f}–{max(times):.0f})"
        rows.append(
            f"| {label} | {len(times)} | {seconds} | {ratios} "
            f"| {statistics.fmean(scores):.1f} ({', '.join(f'{score:.1f}' for score in scores)}) | {used:.0%} |"
        )
    return "\n".join(rows) + "\n"


def _ratio(ours: dict[int, dict[str, Any]], timed: dict[int, dict[str, Any]]) -> str:
    seeds = [seed for seed in ours.keys() & timed.keys() if "seconds" in ours[seed]]
    ratios = [ours[seed]["seconds"] / timed[seed]["seconds"] for seed in seeds]
    return f"{statistics.median(ratios):.2f}" if ratios else "–"


def _utilisation(run: dict[str, Any], peaks: Path) -> float:
    flops = 6 * run["parameters"]["non_embedding"] * run["real_tokens"] / run["seconds"]
    return flops / json.loads(peaks.read_text())[run["precision"]]
