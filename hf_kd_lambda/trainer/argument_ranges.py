"""Ranges of the numbers that training uses, so that none fails hours later, or trains nothing.

A bound is where a number makes no sense for any model or data: far outside what anybody would try.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

from transformers import TrainingArguments


class _Range(NamedTuple):
    """Words for a message, and whether a finite number lies in it."""

    words: str
    contains: Callable[[float], bool]


_POSITIVE = _Range("a positive finite number", lambda value: value > 0)
_NOT_NEGATIVE = _Range("a finite number of at least 0", lambda value: value >= 0)
_BELOW_ONE = _Range("a number in [0, 1)", lambda value: 0 <= value < 1)
_COUNT = _Range("at least 1", lambda value: value >= 1)


def _between(low: float, high: float) -> _Range:
    return _Range(f"a number from {low:g} to {high:g}", lambda value: low <= value <= high)


def _zero_or_between(low: float, high: float) -> _Range:
    return _Range(f"0, or a number from {low:g} to {high:g}", lambda value: value == 0 or low <= value <= high)


_SEED = _Range("an integer from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)

# None is allowed where the default is None.
_RANGES = {
    "learning_rate": _zero_or_between(1e-15, 1000),  # a job refuses 0, too
    "teacher_learning_rate": _between(1e-15, 1000),
    "weight_decay": _between(0, 1000),
    "adam_beta1": _BELOW_ONE,
    "adam_beta2": _BELOW_ONE,
    "adam_epsilon": _between(1e-40, 1000),
    "max_grad_norm": _zero_or_between(1e-9, 1e30),
    "label_smoothing_factor": _BELOW_ONE,
    "warmup_steps": _NOT_NEGATIVE,
    "warmup_ratio": _NOT_NEGATIVE,
    "num_train_epochs": _between(1e-5, 1e7),
    "teacher_epochs": _between(1e-5, 1e7),
    "gradient_accumulation_steps": _COUNT,
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "eval_delay": _NOT_NEGATIVE,
    "eval_steps": _POSITIVE,
    "save_steps": _POSITIVE,
    "logging_steps": _POSITIVE,
    "save_total_limit": _COUNT,
    "neftune_noise_alpha": _POSITIVE,
    "torch_empty_cache_steps": _COUNT,
    "dataloader_num_workers": _between(0, 1024),
    "dataloader_prefetch_factor": _COUNT,
    "ddp_timeout": _POSITIVE,
    "seed": _SEED,
    "data_seed": _SEED,
    "lambda_kappa": _POSITIVE,
    "lambda_min": _POSITIVE,
    "lambda_max": _POSITIVE,
    "lambda_max_change": _Range("a positive number of at most 700", lambda value: 0 < value <= 700),  # e⁷¹⁰ is ∞
    "gram_decay": _BELOW_ONE,
    "temperature": _between(0.01, 1000),  # beyond, fp32 rounds the distributions to one-hot or uniform ones
    "lambda_interval": _between(1, 1e6),
    "cache_top_logits": _COUNT,
    "early_stopping_patience": _COUNT,
}


def check_numbers(values: Mapping[str, Any]) -> None:
    """Refuse numbers outside the range of their setting; settings without a range pass.

    Args:
        values: by the name of their setting.

    Raises:
        ValueError: names the setting, its value and its range.
    """
    for name, admitted in _RANGES.items():
        value = values.get(name)
        if value is not None and not (_is_finite(value) and admitted.contains(value)):
            raise ValueError(f"{name}={value} must be {admitted.words}.")


def check_training_arguments(args: TrainingArguments) -> None:
    """Refuse numbers that TrainingArguments accepts and training cannot use.

    Args:
        args: the arguments.

    Raises:
        ValueError: names the setting, its value and its range.
    """
    check_numbers(vars(args))
    if args.max_steps == 0 or args.max_steps < -1:
        raise ValueError(f"max_steps={args.max_steps} must be at least 1, or -1 to train for num_train_epochs.")
    for name in ("lr_scheduler_kwargs", "optim_args"):
        if wrong := _not_finite(getattr(args, name, None)):
            raise ValueError(f"{name}={getattr(args, name)!r} contains {wrong}: give a finite number.")


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _not_finite(value: Any) -> str | None:
    """The first number in a mapping, or in a text `name=value,...`, that is not finite; None if there is none."""
    if isinstance(value, str):
        value = dict(part.partition("=")[::2] for part in value.split(","))
    for number in (value or {}).values():
        try:
            if not math.isfinite(float(number)):
                return str(number)
        except (TypeError, ValueError):
            continue  # no number: the optimizer or scheduler judges it
    return None
