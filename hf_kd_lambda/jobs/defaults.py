"""Defaults of a job that differ from those of TrainingArguments: evaluate each epoch, and keep the best student."""

from argparse import Namespace
from collections.abc import Collection

from transformers.utils import logging

from hf_kd_lambda.utils.log_keys import MAIN_METRIC

logger = logging.get_logger(__name__)

SAVED_CHECKPOINTS = 2  # the last and the one before it, and in any case the best


def resolve_defaults(values: Namespace, given: Collection[str]) -> None:
    """Fill in place what the settings leave open.

    Evaluation and saving follow each other, so that the best student can be kept; a setting that is given stays.

    Args:
        values: the settings, with the defaults of TrainingArguments.
        given: names of those that the user has set.
    """

    def fill(name: str, value: object) -> None:
        if name not in given:
            setattr(values, name, value)

    fill("eval_strategy", "steps" if "eval_steps" in given else "epoch")
    follows = "epoch" if values.eval_strategy == "no" else values.eval_strategy
    fill("save_strategy", "steps" if "save_steps" in given else follows)
    if values.save_strategy == values.eval_strategy == "steps":
        if values.eval_steps is None:
            values.eval_steps = values.save_steps
        fill("save_steps", values.eval_steps)
    fill("save_total_limit", SAVED_CHECKPOINTS)
    fill("load_best_model_at_end", _saves_what_it_evaluates(values))
    in_steps = values.save_strategy == values.eval_strategy == "steps"
    if in_steps and not _saves_what_it_evaluates(values):
        differs = f"save_steps={values.save_steps} differs from eval_steps={values.eval_steps}, so that"
        if values.load_best_model_at_end:
            logger.warning(f"{differs} the best student may not be saved, nor kept: set both to the same number.")
        elif "load_best_model_at_end" not in given:
            logger.warning(
                f"{differs} the last student is kept, as the best may not be saved: set both to the same number."
            )
    if values.load_best_model_at_end or values.save_strategy == "best":
        fill("metric_for_best_model", MAIN_METRIC)


def _saves_what_it_evaluates(values: Namespace) -> bool:
    """Whether each evaluation has a checkpoint: the Trainer finds the best one only if that was saved."""
    if values.eval_strategy == values.save_strategy == "steps":
        return values.save_steps == values.eval_steps
    return values.eval_strategy == values.save_strategy != "no"
