"""Measure the cost of adaptive λ on this machine: `python scripts/benchmark.py [--quick] [--json FILE]`.

Without options: the four kinds of steps of `benchmarks.steps`, their ratios, and the extra memory of a measuring step.
`--grid DIR` measures them for several student sizes, batches, lengths and ranks; with `--size base`, for the width and
layers of BERT-base. `--against plain,grouped,textbrewer,torchdistill` trains on SST-2 with this package and with other
trainers; `grouped` is `plain` with our loader, in both precisions. docs/benchmarks/cost.md has the results.
"""

import argparse
import json
import math
import sys
from pathlib import Path

# The repository's root in place of this folder: benchmarks is not installed.
sys.path[0] = str(Path(__file__).parents[1])

import torch

from benchmarks.end_to_end import CONTENDERS, compare
from benchmarks.grid import GRIDS, measure_grid
from benchmarks.steps import PEAK_RESET, StepSetting, measure, measure_alone, summary
from hf_kd_lambda.trainer.config import DEFAULT_INTERVAL


def measure_steps(setting: StepSetting, rounds: int) -> dict[str, float]:
    """Times measured in this process, and memory in a separate process, on Linux only."""
    figures = summary(measure(setting, rounds), DEFAULT_INTERVAL)
    if PEAK_RESET.exists() and not torch.cuda.is_available():
        alone = summary(measure_alone(setting, min(rounds, 4)), DEFAULT_INTERVAL)
        figures["extra_memory_mb"] = alone["extra_memory_mb"]
    return figures


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind")
    parser.add_argument("--quick", action="store_true", help="5 steps of each kind: less than a minute")
    parser.add_argument("--student-layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="examples")
    parser.add_argument("--length", type=int, default=48, help="tokens of an example")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--grid", type=Path, metavar="DIR", help="measure all axes, and write tables and a plot there")
    parser.add_argument("--size", default="small", choices=GRIDS, help="with --grid: size of the models")
    parser.add_argument("--clock", default="seconds", choices=["seconds", "cpu_seconds"], help="with --grid")
    parser.add_argument("--against", help=f"comma-separated, of {', '.join(CONTENDERS)}")
    parser.add_argument("--data", default="nyu-mll/glue", help="with --against: GLUE, on the Hub or in a folder")
    parser.add_argument("--teacher", default="quickstart", help="with --against: encoder to fine-tune first")
    parser.add_argument("--examples", type=int, default=20_000, help="with --against: sentences of SST-2")
    parser.add_argument("--epochs", type=int, default=3, help="with --against")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="with --against")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/benchmark"), help="with --against: folder of results"
    )
    args = parser.parse_args()
    if args.grid:
        measure_grid(args.grid, args.rounds, args.size, args.clock)
    elif args.against:
        compare(args.against.split(","), args.data, args.teacher, args.examples, args.epochs, args.seeds, args.output)
    else:
        setting = StepSetting(args.student_layers, args.batch, args.length, args.precision)
        figures = measure_steps(setting, 5 if args.quick else args.rounds)
        for name, value in figures.items():
            print(f"{name:28} {value:.3f}" if isinstance(value, float) else f"{name:28} {value}")
        if args.json:
            finite = {name: None if isinstance(x, float) and math.isnan(x) else x for name, x in figures.items()}
            args.json.write_text(json.dumps(finite, indent=2) + "\n")


if __name__ == "__main__":
    main()
