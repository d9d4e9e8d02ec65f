"""CPU milliseconds of a step that belong to the rule: `python -m benchmarks.rule_cost --json FILE`.

These are the calls of the `Balancer` and of λ's state, without the backward pass and the Gram matrix of a measuring
step: votes or trust of a batch, its counts, and setting λ. The student has 3 layers of MiniLM's width. There are as
many random tokens as in SST-2's sentences, with cached logits, in bf16 where the processor has it. Means of an epoch's
steps, one thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast
from unittest.mock import patch

import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, default_data_collator, set_seed

from hf_kd_lambda import DistillationConfig, DistillationTrainer
from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.utils.hardware import hardware

RULES = ("adaptive", "evidence", "trust")
BATCH, LENGTH, CLASSES, STEPS, WARMUP = 32, 14, 3, 60, 10
"""`STEPS` are those of an epoch; there are two."""


class Clock(TrainerCallback):
    """CPU seconds of each step, and of the calls in it that `timed` wraps."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.calls: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.calls.append(0.0)
        self._start = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.steps.append(time.process_time() - self._start)

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with its seconds added to those of the step."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = call(*args, **kwargs)
            self.calls[-1] += time.process_time() - start
            return result

        return wrapped


def measure(rule: str) -> Clock:
    """Train for two epochs with this rule."""
    set_seed(0)
    config = BertConfig(
        hidden_size=384, num_attention_heads=12, intermediate_size=1536, num_hidden_layers=3, num_labels=CLASSES
    )
    count = BATCH * STEPS
    columns = {
        "input_ids": torch.randint(1000, 30000, (count, LENGTH)),
        "labels": torch.randint(0, CLASSES, (count,)),
        "teacher_logits": torch.randn(count, CLASSES),
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(
            output_dir=folder,
            lambda_rule=rule,
            num_train_epochs=2,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_dict({name: values.numpy() for name, values in columns.items()})
        trainer = DistillationTrainer(
            BertForSequenceClassification(config),
            args,
            train_dataset=data.with_format("torch"),
            data_collator=default_data_collator,
            callbacks=[clock],
        )
        balancer, state = trainer.balancer, cast(LambdaState, trainer.lambda_state)
        with (
            patch.object(balancer, "observe", clock.timed(balancer.observe)),
            patch.object(balancer, "end_step", clock.timed(balancer.end_step)),
            patch.object(state, "update", clock.timed(state.update)),
        ):
            trainer.train()
    return clock


def epochs(rule: str) -> list[dict[str, Any]]:
    """Mean CPU milliseconds of a step, and of its calls of the rule, in both epochs."""
    clock = measure(rule)
    rows = []
    for epoch, steps in (("first", slice(WARMUP, STEPS)), ("second", slice(STEPS, None))):
        step, calls = (1000 * fmean(seconds[steps]) for seconds in (clock.steps, clock.calls))
        rows.append({"rule": rule, "epoch": epoch, "step_ms": step, "rule_ms": calls})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a row for each rule and epoch."""
    lines = ["| rule | epoch | step, ms | rule, ms | share |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{row['rule']}` | {row['epoch']} | {row['step_ms']:.0f} | {row['rule_ms']:.2f} "
        f"| {row['rule_ms'] / row['step_ms']:.1%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print a table, and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    file = parser.parse_args().json
    torch.set_num_threads(1)
    rows = [row for rule in RULES for row in epochs(rule)]
    file.write_text(json.dumps({"hardware": hardware(), "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
