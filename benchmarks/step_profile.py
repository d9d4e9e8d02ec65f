"""Where the time of an ordinary step goes: `python -m benchmarks.step_profile --teacher DIR --json FILE`.

An epoch of the first sentences of SST-2 with cached logits, length-grouped batches and one thread, under
`torch.profiler`. Also measured, without the profiler: the padding of all batches, and the time in which the next batch
is fetched.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import IntervalStrategy, TrainerCallback, set_seed

from benchmarks.contenders.ours import make_trainer
from benchmarks.contenders.task import Parts, Task, prepare
from hf_kd_lambda.utils.hardware import hardware

OPERATIONS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear"),
    "fused AdamW": ("aten::_fused_adamw_",),
    "copies, in bf16 mostly casts of weights": ("aten::copy_",),
    "dropout's random numbers": ("aten::bernoulli_",),
    "norm and scaling of clipping": ("aten::linalg_vector_norm", "aten::mul_", "aten::_foreach_mul_"),
    "setting to zero": ("aten::fill_", "aten::zero_"),
    "GELU and layer norm, with their backward passes": (
        *("aten::gelu", "aten::gelu_backward"),
        *("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    ),
}
"""Names that torch gives to the operations of a row."""


class Clock(TrainerCallback):
    """Seconds within steps, and between them, when batches are fetched."""

    def __init__(self) -> None:
        self.within = self.between = 0.0
        self._ended: float | None = None

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """A batch has been fetched."""
        self._begun = time.process_time()
        if self._ended is not None:
            self.between += self._begun - self._ended

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """The step is done."""
        self._ended = time.process_time()
        self.within += self._ended - self._begun


def measure(task: Task, profiled: int = 2048) -> dict[str, Any]:
    """Train an epoch twice, without and with the profiler.

    Args:
        task: its examples are those whose padding is counted.
        profiled: number of examples to train on.

    Returns:
        Shares of the profiled time by operation, of padding in all tokens, also with random batches, and of fetching
        in the CPU time.
    """
    parts, clock = prepare(task), Clock()
    few = replace(parts, train=parts.train.select(range(profiled)))
    with tempfile.TemporaryDirectory() as folder:
        padding = _padding(task, parts, Path(folder))
        random_padding = _padding(replace(task, grouped=False), parts, Path(folder))
        _train(task, few, Path(folder), clock)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            _train(task, few, Path(folder), Clock())
    seconds = Counter({event.key: event.self_cpu_time_total for event in profiler.key_averages()})
    shares = {title: sum(seconds[name] for name in names) / seconds.total() for title, names in OPERATIONS.items()}
    return {
        "hardware": hardware(),
        "precision": task.precision,
        "shares": shares,
        "padding": padding,
        "random_padding": random_padding,
        "fetching": clock.between / (clock.between + clock.within),
    }


def _padding(task: Task, parts: Parts, folder: Path) -> float:
    loader = make_trainer(task, parts, folder).get_train_dataloader()
    return 1 - parts.real_tokens / sum(batch["input_ids"].numel() for batch in loader)


def _train(task: Task, parts: Parts, folder: Path, clock: Clock) -> None:
    """Train without evaluation; the second time, the teacher's logits are found in the folder."""
    set_seed(task.seed)
    trainer = make_trainer(task, replace(parts, student=deepcopy(parts.student)), folder)
    trainer.args.eval_strategy = IntervalStrategy.NO
    trainer.add_callback(clock)
    trainer.train()


def table(record: Mapping[str, Any]) -> str:
    """Markdown: a row for each kind of operation, the largest share first, and the other shares."""
    shares = sorted(record["shares"].items(), key=lambda item: -item[1])
    lines = ["| operation | share of the time |", "| --- | --- |"]
    lines += [f"| {title} | {share:.0%} |" for title, share in shares]
    others = (
        f"{record['precision']} on {record['hardware']}. Fetching batches takes {record['fetching']:.1%} of the time. "
        f"Padding is {record['padding']:.1%} of all tokens; with random batches, {record['random_padding']:.1%}."
    )
    return "\n".join([*lines, "", others]) + "\n"


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder of a teacher of SST-2, as of scripts/benchmark.py")
    parser.add_argument("--data", default="nyu-mll/glue", help="Hub id or folder of GLUE")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = measure(Task(args.teacher, args.data, epochs=1, precision=args.precision, grouped=True))
    args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


if __name__ == "__main__":
    main()
