"""What training shows on the console: a bar with a rate, and short lines; the whole log goes to trackers and files.

Where stderr is no terminal, there is no bar: a file would have a line for each step of it.
"""

import sys
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from hf_kd_lambda.utils.log_keys import TIMES

SHOWN = ("loss", "task_loss", "kd_loss", "lambda", "grad_cosine")
"""Keys of a training log that a line shows, after step and epoch."""
FIRST = ("score", "accuracy")
"""Keys of an evaluation that come first in a line."""
LAST = ("teacher_agreement", "task_loss", "kd_loss")
"""Keys of an evaluation that follow the other metrics."""
MOST = 5  # of an evaluation


def console_line(logs: Mapping[str, Any], step: int, steps: int) -> str:
    """A log entry on one line, of at most 7 values and mostly below 100 characters.

    Args:
        logs: the entry.
        step: optimizer steps so far.
        steps: number of steps of the whole training.
    """
    at = [f"step {step}/{steps}", f"epoch {logs['epoch']:.2f}"] if "epoch" in logs else [f"step {step}/{steps}"]
    if "train_samples_per_second" in logs:  # `include_num_input_tokens_seen` adds the runtime to each entry
        rates = f"{logs['train_samples_per_second']:.3g} examples/s, {logs['train_steps_per_second']:.3g} steps/s"
        return f"trained in {logs['train_runtime']:.1f} s: {rates}"
    if evaluation := evaluated(logs):
        return "  ".join(["evaluation:", at[-1], *_numbers(evaluation)])
    return "  ".join([*at, *_numbers({name: logs[name] for name in SHOWN if name in logs})])


def evaluated(logs: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation that are shown, the main one first; none of another entry."""
    metrics = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
    ordered = dict.fromkeys([*FIRST, *(name for name in metrics if name not in LAST), *LAST])
    shown = [name for name in ordered if name in metrics and name != "loss" and not name.endswith(TIMES)]
    return {name: metrics[name] for name in shown[:MOST]}


def _numbers(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]


class ShortProgress(ProgressCallback):
    """Transformers' bars, named, with short lines above them."""

    def on_train_begin(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the bar."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description("training")

    def on_prediction_step(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show or move the bar of an evaluation."""
        is_new = self.prediction_bar is None
        super().on_prediction_step(args, state, control, **kwargs)
        if is_new and self.prediction_bar is not None:
            self.prediction_bar.set_description("evaluation")

    def on_log(
        self, args: Arguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Write the line."""
        if self.training_bar is not None:
            self.training_bar.write(console_line(logs, state.global_step, state.max_steps))


class ShortPrinter(PrinterCallback):
    """Short lines alone."""

    def on_log(
        self, args: Arguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Print the line."""
        if state.is_local_process_zero:
            print(console_line(logs, state.global_step, state.max_steps), flush=True)


def use_short_lines(trainer: Trainer) -> None:
    """Replace what Transformers shows of each log entry; what a caller or a notebook has chosen stays."""
    short: dict[type[TrainerCallback], type[TrainerCallback]] = {
        ProgressCallback: ShortProgress if sys.stderr.isatty() else ShortPrinter,
        PrinterCallback: ShortPrinter,
    }
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback) in short:
            trainer.remove_callback(callback)
            trainer.add_callback(short[type(callback)])
