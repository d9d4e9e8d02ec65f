"""Settings that are left open, filled in from others and from the machine.

`config` is a `DistillationConfig`, which calls these functions when it is made.
"""

import multiprocessing
import os
from typing import Any

import torch
from transformers.trainer_utils import SaveStrategy, SchedulerType

from hf_kd_lambda.utils.hardware import multiplies_bf16, usable_cores


def reads_metric(config: Any) -> bool:
    """Whether a run compares its evaluations by `metric_for_best_model`."""
    follows = config.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
    return bool(config.load_best_model_at_end or config.save_strategy == SaveStrategy.BEST or follows)


def resolve_best_model(config: Any) -> None:
    """Choose in place the metric of the best model, if the settings do not."""
    if reads_metric(config) and config.metric_for_best_model is None:
        # Not the loss: its weights change from one evaluation to the next.
        config.metric_for_best_model = "task_loss"
    if str(config.metric_for_best_model).endswith("perplexity"):
        # None means no, unlike in TrainingArguments.
        config.greater_is_better = bool(config.greater_is_better)


def resolve_evaluations(config: Any) -> None:
    """Choose in place how often to evaluate, if the settings do not: at checkpoints, not at each of 50 log entries."""
    if config.eval_strategy == "steps" and config.eval_steps is None and config.logging_steps < 1:
        config.eval_steps = config.save_steps


def resolve_device(config: Any) -> None:
    """Choose in place the device, the precision and the number of data workers, if the settings do not."""
    # Without an accelerator the CPU is meant: gloo for several processes, no pinned memory, bf16 not refused.
    config.use_cpu = config.use_cpu or not torch.accelerator.is_available()
    launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if not (config.fp16 or config.bf16 or launched_with != "no"):
        config.fp16 = config.precision == "fp16"
        config.bf16 = config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(config.use_cpu))
    if config.dataloader_num_workers is None:
        cores = usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        config.dataloader_num_workers = min(4, cores) if _forks() and not config.use_cpu else 0


def _forks() -> bool:
    """Whether new processes are forked. Others import the script that trains, which would train in each of them."""
    # Without a method that the user has set, the first is the default; to ask for the default would set it.
    return (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) == "fork"
