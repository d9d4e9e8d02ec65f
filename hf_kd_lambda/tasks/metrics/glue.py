"""Metrics of the GLUE tasks and of own data, computed here, so that evaluation needs no network."""

from collections.abc import Callable, Sequence
from functools import partial

import evaluate
import numpy as np
from datasets import Features, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import EvalPrediction

from hf_kd_lambda.reports.agreement import correlation
from hf_kd_lambda.utils.first_output import first_output

Score = Callable[[np.ndarray, np.ndarray], float]


_ACCURACY: dict[str, Score] = {"accuracy": accuracy_score}
_ACCURACY_F1: dict[str, Score] = {"accuracy": accuracy_score, "f1": partial(f1_score, zero_division=0.0)}
_CORRELATIONS: dict[str, Score] = {
    "pearson": partial(correlation, pearsonr),
    "spearmanr": partial(correlation, spearmanr),
}
_SCORES: dict[str, dict[str, Score]] = {
    "cola": {"matthews_correlation": matthews_corrcoef},
    "sst2": _ACCURACY,
    "mrpc": _ACCURACY_F1,
    "stsb": _CORRELATIONS,
    "qqp": _ACCURACY_F1,
    "mnli": _ACCURACY,
    "qnli": _ACCURACY,
    "rte": _ACCURACY,
    "wnli": _ACCURACY,
    "classification": _ACCURACY | {"f1_macro": partial(f1_score, average="macro", zero_division=0.0)},
    "regression": _CORRELATIONS,
}


class GlueMetric(evaluate.Metric):
    """Metrics of one task and, as `score`, their mean, which is what the GLUE leaderboard averages over tasks.

    Wang et al. 2019, GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding, table 1.

    Args:
        task: a GLUE task, or `classification` or `regression` for own data.

    Raises:
        ValueError: there is no such task.
    """

    def __init__(self, task: str) -> None:
        if task not in _SCORES:
            raise ValueError(f"task={task!r} has no metrics; those with metrics are {', '.join(_SCORES)}.")
        # In memory: processes that evaluate at the same time share no file and no lock.
        super().__init__(config_name=task, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        value = Value("float64" if _SCORES[self.config_name] is _CORRELATIONS else "int64")
        return evaluate.MetricInfo(
            description="Metrics of the GLUE benchmark.",
            citation="Wang et al. 2019, https://openreview.net/forum?id=rJ4km2R5t7",
            inputs_description="predictions and references: class indices, or numbers for a regression.",
            features=Features({"predictions": value, "references": value}),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return self.scores(predictions, references)

    def scores(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        """What `compute` returns, without a copy of the arrays: a bootstrap asks for it hundreds of times.

        Args:
            predictions, references: `[examples]`, class indices, or numbers for a regression.
        """
        scores = {name: float(score(references, predictions)) for name, score in _SCORES[self.config_name].items()}
        return scores | {"score": float(np.mean(list(scores.values())))}


def score_of_one_class(labels: Sequence[int], task: str | None = None) -> float:
    """The score of a model that predicts the most frequent class for each example.

    Args:
        labels: class indices; negative where there is none.
        task: a GLUE task, or None for own data.
    """
    references = np.asarray(labels)
    references = references[references >= 0]
    predictions = np.full_like(references, np.bincount(references).argmax())
    return GlueMetric(task or "classification").scores(predictions, references)["score"]


def compute_metrics_for(task: str | None, is_regression: bool) -> Callable[[EvalPrediction], dict[str, float]]:
    """Metrics function of a task for `Trainer(compute_metrics=...)`.

    Args:
        task: a GLUE task, or None for own data.
        is_regression: whether the single output column is the predicted number.
    """
    metric = GlueMetric(task or ("regression" if is_regression else "classification"))

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        logits = first_output(evaluation.predictions)
        predictions = logits.reshape(-1) if is_regression else logits.argmax(axis=-1)
        return metric.scores(predictions, evaluation.label_ids)

    return compute_metrics
