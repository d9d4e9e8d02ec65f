"""Defaults of a job that differ from those of TrainingArguments: evaluate each epoch, and keep the best student."""

from argparse import Namespace
from collections.abc import Set

from transformers.utils import logging

from hf_kd_lambda.utils.log_keys import MAIN_METRIC

logger = logging.get_logger(__name__)

SAVED_CHECKPOINTS = 2  # the last and the one before it, and in any case the best


def resolve_defaults(values: Namespace, given: Set[str]) -> None:
    """Fill in place what the settings leave open.

    Evaluation and saving follow each other, so that the best student can be kept; a setting that is given stays.

    Args:
        values: the settings, with the defaults of TrainingArguments.
        given: names of those that the user has set.
    """

    def fill(name: str, value: object) -> None:
        if name not in given:
            setattr(values, name, value)

    saves_in_steps = values.save_strategy == "steps" and not given.isdisjoint(("save_strategy", "save_steps"))
    fill("eval_strategy", "steps" if "eval_steps" in given or saves_in_steps else "epoch")
    follows = "epoch" if values.eval_strategy == "no" else values.eval_strategy
    fill("save_strategy", "steps" if "save_steps" in given else follows)
    if values.save_strategy == values.eval_strategy == "steps":
        if values.eval_steps is None:
            values.eval_steps = values.save_steps
        fill("save_steps", values.eval_steps)
    fill("save_total_limit", SAVED_CHECKPOINTS)
    fill("load_best_model_at_end", _saves_the_best(values))
    if "no" not in (values.eval_strategy, values.save_strategy) and not _saves_the_best(values):
        _warn_of_best(values, "load_best_model_at_end" in given)
    if values.load_best_model_at_end or values.save_strategy == "best":
        fill("metric_for_best_model", MAIN_METRIC)


def _saves_the_best(values: Namespace) -> bool:
    """Whether the student of the best evaluation has a checkpoint, without which the Trainer cannot find it."""
    if "no" in (values.eval_strategy, values.save_strategy):
        return False
    if values.eval_strategy == values.save_strategy == "steps":
        return values.save_steps == values.eval_steps
    return values.save_strategy in ("best", values.eval_strategy)


def _warn_of_best(values: Namespace, is_given: bool) -> None:
    """Warn that the best student may be lost; not of a run that is told to keep the last one."""
    kind = "steps" if values.save_strategy == values.eval_strategy else "strategy"
    save, evaluate = (getattr(values, f"{name}_{kind}") for name in ("save", "eval"))
    save, evaluate = (getattr(value, "value", value) for value in (save, evaluate))  # of an Enum
    differs = f"save_{kind}={save} differs from eval_{kind}={evaluate}, so that"
    if values.load_best_model_at_end:
        logger.warning(f"{differs} the best student may not be saved, nor kept: set both to the same.")
    elif not is_given:
        logger.warning(f"{differs} the last student is kept, as the best may not be saved: set both to the same.")
