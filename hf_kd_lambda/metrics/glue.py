"""Metrics of the GLUE tasks and of own data, computed here, so that evaluation needs no network."""

import re
from collections.abc import Callable, Sequence
from functools import partial

import evaluate
import numpy as np
from datasets import Features, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor
from transformers import EvalPrediction

from hf_kd_lambda.losses import IGNORED

Score = Callable[[np.ndarray, np.ndarray], float]


def _correlation(coefficient: Callable, labels: np.ndarray, predictions: np.ndarray) -> float:
    # Of a constant, a correlation is not defined; here it is 0, the score of predictions that carry no information.
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return float(coefficient(labels, predictions).statistic)


_ACCURACY: dict[str, Score] = {"accuracy": accuracy_score}
_ACCURACY_F1: dict[str, Score] = {"accuracy": accuracy_score, "f1": partial(f1_score, zero_division=0.0)}
_CORRELATIONS: dict[str, Score] = {
    "pearson": partial(_correlation, pearsonr),
    "spearmanr": partial(_correlation, spearmanr),
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
        scores = {name: float(score(references, predictions)) for name, score in _SCORES[self.config_name].items()}
        return scores | {"score": float(np.mean(list(scores.values())))}


def compute_metrics_for(task: str | None, is_regression: bool) -> Callable[[EvalPrediction], dict[str, float]]:
    """Metrics function of a task for `Trainer(compute_metrics=...)`.

    Args:
        task: a GLUE task, or None for own data.
        is_regression: whether the single output column is the predicted number.
    """
    metric = GlueMetric(task or ("regression" if is_regression else "classification"))

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        outputs = evaluation.predictions
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        predictions = logits.reshape(-1) if is_regression else logits.argmax(axis=-1)
        return metric.compute(predictions=predictions, references=evaluation.label_ids)

    return compute_metrics


def token_metrics_for(label_names: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Metrics function of a token classification, over the tokens whose label is not -100.

    Of labels in BIO: accuracy, and precision, recall and F1 of entities, the F1 as `score`. Of others: as of own data.

    Args:
        label_names: in the order of the outputs.
    """
    of_entities, metric = marks_entities(label_names), GlueMetric("classification")

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        outputs, labels = evaluation.predictions, evaluation.label_ids
        predictions = (outputs[0] if isinstance(outputs, tuple) else outputs).argmax(axis=-1)
        labelled = labels != IGNORED
        if not of_entities:
            return metric.compute(predictions=predictions[labelled], references=labels[labelled])
        found, true = (
            [[label_names[label] for label in row[kept]] for row, kept in zip(each, labelled, strict=True)]
            for each in (predictions, labels)
        )
        scores = entity_scores(found, true)
        accuracy = float(accuracy_score(labels[labelled], predictions[labelled]))
        return {"accuracy": accuracy, **scores, "score": scores["f1"]}

    return compute_metrics


def marks_entities(label_names: Sequence[str]) -> bool:
    """Whether labels are in BIO: `B-PER` begins an entity of kind PER, `I-PER` goes on with it, `O` is in none."""
    return "O" in label_names and all(re.fullmatch("O|[BI](-.+)?", name) for name in label_names)


def entity_scores(found: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 over the entities of all sentences; right are those whose span and kind are right.

    Args:
        found, true: labels in BIO of each sentence.
    """
    pairs = [(entities(each), entities(expected)) for each, expected in zip(found, true, strict=True)]
    right = sum(len(each & expected) for each, expected in pairs)
    num_found, num_true = (sum(map(len, each)) for each in zip(*pairs, strict=True))
    return {
        "precision": right / max(num_found, 1),
        "recall": right / max(num_true, 1),
        "f1": 2 * right / max(num_found + num_true, 1),
    }


def entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, first word, word after the last) of each entity in a sentence labelled in BIO.

    As CoNLL-2003 scores (Tjong Kim Sang & De Meulder 2003), an `I-` that goes on with nothing begins an entity.
    """
    spans: set[tuple[str, int, int]] = set()
    kind, start = None, 0
    for index, label in enumerate([*labels, "O"]):
        prefix, _, own_kind = label.partition("-")
        if kind is not None and (prefix != "I" or own_kind != kind):
            spans.add((kind, start, index))
            kind = None
        if prefix != "O" and kind is None:
            kind, start = own_kind, index
    return spans


def teacher_agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Share of the examples to which student and teacher give the same class; for a regression, their correlation.

    Args:
        student_logits: (examples, classes), or (examples, 1) for a regression. Or classes, (examples,), int64.
        teacher_logits: of the same shape, classes in the same order.

    Returns:
        The share, in [0, 1], or Pearson's correlation, in [-1, 1].
    """
    if not student_logits.is_floating_point():
        return (student_logits == teacher_logits).float().mean().item()
    if student_logits.shape[-1] > 1:
        return (student_logits.argmax(dim=-1) == teacher_logits.argmax(dim=-1)).float().mean().item()
    student, teacher = (
        logits.detach().reshape(-1).double().cpu().numpy() for logits in (student_logits, teacher_logits)
    )
    return _correlation(pearsonr, teacher, student)
