"""Metrics of token classification: entities in BIO, or accuracy over tokens."""

import re
from collections.abc import Callable, Sequence

from sklearn.metrics import accuracy_score
from transformers import EvalPrediction

from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.tasks.metrics.glue import GlueMetric
from hf_kd_lambda.utils.first_output import first_output


def token_metrics_for(label_names: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Metrics function of a token classification, over the tokens whose label is not -100.

    For labels in BIO: accuracy, and precision, recall and F1 of entities, with the F1 as `score`. For other labels:
    the metrics of own data.

    Args:
        label_names: in the order of the outputs.
    """
    of_entities, metric = marks_entities(label_names), GlueMetric("classification")

    def compute_metrics(evaluation: EvalPrediction) -> dict[str, float]:
        predictions, labels = first_output(evaluation.predictions).argmax(axis=-1), evaluation.label_ids
        labelled = labels != IGNORED
        if not of_entities:
            return metric.scores(predictions[labelled], labels[labelled])
        found, true = (
            [[label_names[label] for label in row[kept]] for row, kept in zip(classes, labelled, strict=True)]
            for classes in (predictions, labels)
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
    pairs = [(entities(labels), entities(expected)) for labels, expected in zip(found, true, strict=True)]
    right = sum(len(spans & expected) for spans, expected in pairs)
    num_found, num_true = (sum(map(len, spans)) for spans in zip(*pairs, strict=True))
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
