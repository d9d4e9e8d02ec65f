"""How far a score would change with other examples from the same source."""

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import EvalPrediction

from hf_kd_lambda.utils.first_output import first_output
from hf_kd_lambda.utils.log_keys import MAIN_METRIC

BOOTSTRAPS = 100


def standard_error(
    compute_metrics: Callable[[EvalPrediction], dict[str, float]], predictions: Any, labels: Any
) -> float | None:
    """Bootstrap standard error of the score: its standard deviation over resampled examples, always the same ones.

    Efron 1979, "Bootstrap Methods: Another Look at the Jackknife".

    Args:
        compute_metrics: the task's metrics.
        predictions: an array `[examples, ...]`, or a tuple of which it is the first.
        labels: `[examples]`.

    Returns:
        None for examples with several labels, and for a single example.
    """
    predictions = first_output(predictions)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or len(labels) < 2:
        return None
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(BOOTSTRAPS):
        rows = rng.integers(0, len(labels), len(labels))
        scores.append(compute_metrics(EvalPrediction(predictions[rows], labels[rows]))[MAIN_METRIC])
    return float(np.std(scores, ddof=1))
