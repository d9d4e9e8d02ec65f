"""Speed and memory on a GPU in less than 8 minutes: `scripts/gpu_check.sh` calls `python -m benchmarks.gpu`.

Each case is a separate process that runs the four kinds of steps of `benchmarks.steps`. A case that fails, or for
which no time is left, is reported with the reason. Model FLOPs utilisation is 6 · parameters without embeddings ·
tokens, per second of an ordinary cached step, over the fastest product of two square matrices in the same precision.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.end_to_end import gemm_peak
from benchmarks.steps import StepSetting, measure_alone, summary
from hf_kd_lambda.trainer.config import DEFAULT_INTERVAL
from hf_kd_lambda.utils.hardware import hardware

FOLDER = Path(__file__).with_suffix("")
SMALL = StepSetting(precision="bf16")
BASE = StepSetting(student_layers=6, length=128, precision="bf16", least_teacher_layers=12, hidden=768)
TINY = StepSetting(student_layers=2, batch=2, length=8, hidden=24)
ON_GPU = {
    "6 to 3 layers of 384, bf16": SMALL,
    "6 to 3 layers of 384, fp16": replace(SMALL, precision="fp16"),
    "12 to 6 layers of 768, bf16": BASE,
    "12 to 6 layers of 768, fp16": replace(BASE, precision="fp16"),
    "12 to 6 layers of 768, fp32": replace(BASE, precision="fp32"),
    "12 to 6 layers of 768, bf16, FSDP2": replace(BASE, shard=True),
    "12 to 6 layers of 768, bf16, torch.compile": replace(BASE, compile=True),
}
ON_CPU = {"tiny, fp32": TINY, "tiny, bf16": replace(TINY, precision="bf16")}
ONE_RANK = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1"]
SECONDS = 420.0  # of all cases; the rest of 8 minutes is for starting and installing
CASE_SECONDS = 120.0  # of one case
RAISED = re.compile(r"^\S*(Error|Exception|Failed|Exit)\b.*", re.MULTILINE)  # of a traceback, not of what follows

Measure = Callable[..., dict[str, Any]]


def check(
    cases: Mapping[str, StepSetting],
    rounds: int,
    peaks: Mapping[str, float],
    seconds: float = SECONDS,
    measure: Measure = measure_alone,
) -> Iterator[dict[str, Any]]:
    """Measure the cases, one after the other.

    Args:
        cases: settings by name.
        rounds: steps of each kind.
        peaks: floating-point operations per second of the device, by precision.
        seconds: time limit of all cases together.
        measure: see `measure_alone`.

    Yields:
        For each case its name, and either its figures or the `error`.
    """
    end = time.monotonic() + seconds
    for name, setting in cases.items():
        print(f"{name} ...", flush=True)
        left = min(end - time.monotonic(), CASE_SECONDS)
        yield {"case": name} | _outcome(setting, rounds, peaks[setting.precision], left, measure)


def _outcome(setting: StepSetting, rounds: int, peak: float, limit: float, measure: Measure) -> dict[str, Any]:
    if limit <= 0:
        return {"error": "no time left"}
    try:
        measured = measure(setting, rounds, ONE_RANK if setting.shard else (), limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished after {limit:.0f} s"}
    except subprocess.CalledProcessError as error:
        raised = [found[0] for found in RAISED.finditer(error.stderr)]
        return {"error": raised[-1] if raised else error.stderr.strip()[-200:], "stderr": error.stderr}
    except Exception as error:  # no case may end the others
        return {"error": f"{type(error).__name__}: {error}"}
    figures = summary(measured, DEFAULT_INTERVAL)
    operations = 6 * measured["non_embedding_parameters"] * setting.batch * setting.length
    peaks = {kind: max(values) for kind, values in measured["peak_mb"].items() if values}
    return {
        **figures,
        "cached_fixed_to_online_fixed": figures["cached_fixed_s"] / figures["online_fixed_s"],
        "model_flops_utilisation": operations / figures["cached_fixed_s"] / peak,
        "peak_mb": max(peaks.values(), default=None),
        "peak_mb_of_steps": peaks,
        "sharded": measured["sharded"],
        "loss_scale": measured["loss_scale"],
    }


def table(records: Iterable[Mapping[str, Any]]) -> str:
    """Markdown, a row for each case."""
    head = ["case", "step, ms", "measuring / step", "mean step / step", "cached / online", "measuring: MB more"]
    head += ["peak MB", "model FLOPs utilisation"]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + [f"| {' | '.join(_cells(record))} |" for record in records]) + "\n"


def _cells(record: Mapping[str, Any]) -> list[str]:
    if "error" in record:
        return [record["case"], record["error"].replace("|", "/"), *["–"] * 6]
    peak = record["peak_mb"]
    return [
        record["case"],
        f"{1e3 * record['online_fixed_s']:.1f}",
        f"{record['measuring_step_ratio']:.2f}",
        f"{record['mean_step_ratio']:.3f}",
        f"{record['cached_fixed_to_online_fixed']:.2f}",
        f"{record['extra_memory_mb']:.0f}",
        "–" if peak is None else f"{peak:,.0f}",
        f"{record['model_flops_utilisation']:.0%}",
    ]


def main() -> None:
    """Measure, and write gpu.json and gpu.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of gpu.json and gpu.md")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind")
    args = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    cases, device, size = (ON_GPU, "cuda", 8192) if has_gpu else (ON_CPU, "cpu", 512)
    peaks: dict[str, float] = {
        name: gemm_peak(name, size, 10, device) for name in {case.precision for case in cases.values()}
    }
    args.output.mkdir(parents=True, exist_ok=True)
    libraries = {"torch": torch.__version__, "transformers": transformers.__version__}
    records: list[dict[str, Any]] = []
    for record in check(cases, args.rounds, peaks):
        records.append(record)
        everything = {"hardware": hardware(), "versions": libraries, "flops_per_second": peaks, "cases": records}
        (args.output / "gpu.json").write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
        (args.output / "gpu.md").write_text(table(records))
    print(f"{hardware()}\n{table(records)}")


if __name__ == "__main__":
    main()
