"""End training when the student has stopped to improve. The log alone decides, so that a run resumes exactly."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def evaluations_since_best(values: Sequence[float], greater_is_better: bool) -> int:
    """How many evaluations came after the best one, the first of equals; NaN is worse than any number."""
    ranks = [-math.inf if math.isnan(value) else value if greater_is_better else -value for value in values]
    return len(ranks) - 1 - ranks.index(max(ranks)) if ranks else 0


def has_stopped(args: Any, log_history: Sequence[Mapping[str, Any]]) -> bool:
    """Whether as many evaluations as `early_stopping_patience` came after the best one.

    Args:
        args: a `DistillationConfig`.
        log_history: log history of the trainer's state.
    """
    if args.early_stopping_patience is None:
        return False
    key = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
    values = {entry["step"]: entry[key] for entry in log_history if key in entry}  # a resumed run may repeat one
    since_best = evaluations_since_best(list(values.values()), bool(args.greater_is_better))
    return since_best >= args.early_stopping_patience


class EarlyStopping(TrainerCallback):
    """Ends training after `early_stopping_patience` evaluations that are no better than the best one."""

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at the evaluations so far, the last one among them."""
        if has_stopped(args, state.log_history):
            control.should_training_stop = True
