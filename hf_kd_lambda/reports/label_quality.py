"""The quality of labels and teacher per example after a run: numbers, sentences and a table.

A report shows, from the `LabelQuality` of a run:

    summary = quality_summary(quality)        JSON values
    explain_quality(summary)                  two or three sentences
    quality_table(summary)                    Markdown, one row per class
    most_suspicious(quality, 30)              the examples whose labels look wrong most, as dictionaries

`write_quality` writes all examples to a file.

The model is that of `balancing.trust`. α and β are those of the run, estimated in the first pass over the data. The
third annotator is the final student: it judges all examples in the same way, and it is the best student of the run. It
was trained on them, which the model does not assume; `memorised_labels` tells whether it shows.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.distributions import (
    LEAST_DISTANCE,
    possible_classes,
    squared_distance_from_uniform,
)
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.reports.markdown import escaped, table_of
from hf_kd_lambda.reports.memorised_labels import (
    Agreement,
    Judged,
    agreement_summary,
    agreements,
    explain_memorised,
)

_MOST = 0.5  # a class is named if it has at least this share of the findings
_MORE_THAN_ITS_PART = 1.25  # and if that share is more than this factor times its share of the examples
_LOOKS_WRONG = 0.1  # an example is listed from this probability on, whatever class the teacher prefers
_LIMITS = """\
This is an estimate. Errors that labels and teacher share cannot be detected."""
_MEMORISED = """\
The teacher was fine-tuned on these labels and may have memorised wrong ones."""


class LabelQuality(NamedTuple):
    """Trust in label and teacher for every training example; arrays are `[examples]`, in the order of the data."""

    labels: np.ndarray
    """Classes; -100 without a label."""
    answers: np.ndarray
    """The teacher's most probable classes."""
    label_trust: np.ndarray
    """r_label in [0, 1]: probability that the label is informative, not a guess; 0 without a label."""
    teacher_trust: np.ndarray
    """r_teacher in [0, 1]: probability that the teacher is informative; the weighted mean of several."""
    wrong: np.ndarray
    """Probability that the label is wrong; 0 without a label."""
    label_reliability: float
    """α."""
    teacher_reliability: float
    """β; the weighted mean of several."""
    names: Sequence[str]
    """Names of the classes."""
    agreements: Sequence[Agreement] = ()
    """How far teacher and student agree with training and validation labels; empty if it is not known."""
    teachers: Sequence[float] = ()
    """β of every one of several teachers; empty for one."""
    teacher_is_uniform: bool = False
    """Whether the teacher gives nearly the same probability to all classes, so that β says nothing about it."""


def judge_labels(
    training: Judged,
    reliabilities: ClassReliabilities,
    names: Sequence[str],
    validation: Judged | None = None,
) -> LabelQuality:
    """Compute the trust in label and teacher for every training example.

    Args:
        training: outputs of the final student and the teacher.
        reliabilities: α and β of the run.
        names: names of the classes.
        validation: the same of the validation examples; None if there are none.
    """
    student, teacher, labels, several = training
    teachers = several or (teacher,)
    items = item_labels(labels)
    reliabilities = copy.copy(reliabilities)
    reliabilities.to(student.device)
    trusts, _ = reliabilities.judge(student, teachers, items)
    label_trust, teacher_trust = trusts[0].label, reliabilities.mean([trust.teacher for trust in trusts])
    # A guess may be right. By the equations of `trust`, P(label right) = r_label·f_label(y)/α_y, which is
    # r_label·(1 + (1 − α_y)/K/α_y).
    labelled = items.task.ne(IGNORED)
    alpha = reliabilities.alpha_of_classes.expand(student.shape[-1])[items.kd.long()]
    by_chance = (1 - alpha) / possible_classes(student) / alpha
    wrong = torch.where(labelled, (1 - label_trust * (1 + by_chance)).clamp(0, 1), 0.0)
    weights = reliabilities.weights(*trusts).teachers
    soft_targets = TeacherBatch(teacher, members=tuple(teachers)).mixed(weights).logits
    return LabelQuality(
        labels.numpy(),
        soft_targets.argmax(-1).numpy(),
        label_trust.numpy(),
        teacher_trust.numpy(),
        wrong.numpy(),
        reliabilities.alpha.item(),
        reliabilities.beta.item(),
        names,
        [] if validation is None else agreements(training, validation),
        [value.item() for value in reliabilities.betas] if len(teachers) > 1 else [],
        squared_distance_from_uniform(teacher.float()).mean().item() < LEAST_DISTANCE,
    )


def quality_summary(quality: LabelQuality, teacher_learned_them: bool = False) -> dict[str, Any]:
    """The findings in numbers: shares in [0, 1], over all examples and per class.

    Args:
        quality: the quality of the training examples.
        teacher_learned_them: whether the teacher was fine-tuned on these labels.

    Returns:
        `examples`, `labelled`, `label_reliability` (None without labels), `teacher_reliability`, `wrong_labels`,
        `uninformative_teacher` and `teacher_is_uniform`; `more_are_wrong`: whether `wrong_labels` is probably too
        small, because models may have memorised wrong labels; a list `agreements`, see `agreement_summary`;
        `teacher_reliabilities` of several teachers; a list `classes` of `name`, `labelled`, `wrong_labels`,
        `uninformative_teacher` and `rather`: the most frequent teacher class among labels that are more likely wrong
        than right, or None.
    """
    labelled = quality.labels != IGNORED
    have_memorised = any(agreement.has_memorised for agreement in quality.agreements)
    return {
        "examples": len(quality.labels),
        "labelled": int(labelled.sum()),
        "label_reliability": quality.label_reliability if labelled.any() else None,
        "teacher_reliability": quality.teacher_reliability,
        **({"teacher_reliabilities": [*quality.teachers]} if quality.teachers else {}),
        "wrong_labels": _mean(quality.wrong[labelled]),
        "more_are_wrong": teacher_learned_them or have_memorised,
        "uninformative_teacher": _mean(1 - quality.teacher_trust),
        "teacher_is_uniform": quality.teacher_is_uniform,
        "agreements": [agreement_summary(agreement) for agreement in quality.agreements],
        "classes": [_class_summary(quality, index) for index in range(len(quality.names))],
    }


def _class_summary(quality: LabelQuality, index: int) -> dict[str, Any]:
    members = quality.labels == index
    others = quality.answers[members & (quality.wrong > 0.5) & (quality.answers != index)]
    return {
        "name": quality.names[index],
        "labelled": int(members.sum()),
        "wrong_labels": _mean(quality.wrong[members]),
        "uninformative_teacher": _mean(1 - quality.teacher_trust[members]),
        "rather": quality.names[int(np.bincount(others).argmax())] if len(others) else None,
    }


def explain_quality(summary: Mapping[str, Any]) -> str:
    """The findings in sentences, as plain text.

    Args:
        summary: the result of `quality_summary`.
    """
    wrong = "no training example has a label"
    if summary["labelled"]:
        wrong = f"{_wrong_labels(summary)}{_mostly(summary, 'wrong_labels', 'them labelled')}"
    # Only labelled examples are counted by class.
    which = "them" if summary["labelled"] == summary["examples"] else "the labelled ones among them"
    mostly = _mostly(summary, "uninformative_teacher", f"{which} of class")
    of_teacher = f"the teacher is uninformative on {_share(summary['uninformative_teacher'])} of the examples{mostly}"
    if summary.get("teacher_is_uniform"):
        of_teacher = "the teacher gives nearly the same probability to all classes, so that it tells nothing of them"
    found = f"{wrong[0].upper()}{wrong[1:]}; {of_teacher}."
    memorised = explain_memorised(summary["agreements"]) or (_MEMORISED if summary["more_are_wrong"] else None)
    of_each = _explain_teachers(summary.get("teacher_reliabilities", []))
    return " ".join(filter(None, (found, of_each, memorised, _LIMITS)))


def _wrong_labels(summary: Mapping[str, Any]) -> str:
    """The share of wrong labels in words: a lower bound where models may have memorised some."""
    share = summary["wrong_labels"]
    if summary["more_are_wrong"] and share < 0.0005:
        return "hardly any label looks wrong, but more may be"
    if summary["more_are_wrong"]:
        return f"at least {share:.{0 if share >= 0.01 else 1}%} of the labels look wrong, probably more"
    return f"{_share(share)} of the labels look wrong"


def _explain_teachers(reliabilities: Sequence[float]) -> str | None:
    """A sentence with the reliability of each of several teachers, in their order; None for one."""
    clauses = [f"{value:.2f} for teacher {index}" for index, value in enumerate(reliabilities, 1)]
    return f"The reliability is {', '.join(clauses)}." if clauses else None


def _mostly(summary: Mapping[str, Any], key: str, words: str) -> str:
    """A clause that names the class with most of the findings, if there is one."""
    classes, labelled = summary["classes"], max(summary["labelled"], 1)
    found = [row[key] * row["labelled"] for row in classes]
    largest = max(range(len(classes)), key=found.__getitem__)
    share = found[largest] / max(sum(found), 1e-9)
    is_more = share > _MORE_THAN_ITS_PART * classes[largest]["labelled"] / labelled
    if share < _MOST or not is_more or summary[key] < 0.005:
        return ""
    return f", most of {words} {classes[largest]['name']}"


def quality_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table with one row per class."""
    rows = [["label", "examples", "look wrong", "teacher's alternative", "teacher uninformative"]]
    for row in summary["classes"]:
        label, rather = escaped(row["name"]), escaped(row["rather"] or "–")
        wrong, uninformative = _percent(row["wrong_labels"]), _percent(row["uninformative_teacher"])
        rows.append([label, str(row["labelled"]), wrong, rather, uninformative])
    return table_of(rows, numbers=(1, 2, 4))


def most_suspicious(quality: LabelQuality, count: int = 30) -> list[dict[str, Any]]:
    """The examples whose label looks wrong, the most suspicious first; right labels are not listed to fill the list.

    A label looks wrong if the teacher prefers another class, or if it is wrong with a probability of 0.1 or more.

    Returns:
        Dictionaries of `row` (counted from 0), the names of `label` and of the `teacher`'s class, `label_wrong` (the
        probability that the label is wrong), `label_trust` and `teacher_trust`.
    """
    found = (quality.labels != IGNORED) & ((quality.answers != quality.labels) | (quality.wrong >= _LOOKS_WRONG))
    worst = np.argsort(-quality.wrong, kind="stable")
    return [_example(quality, row) for row in worst[found[worst]][:count].tolist()]


def _example(quality: LabelQuality, row: int) -> dict[str, Any]:
    return {
        "row": row,
        "label": quality.names[quality.labels[row]],
        "teacher": quality.names[quality.answers[row]],
        "label_wrong": float(quality.wrong[row]),
        "label_trust": float(quality.label_trust[row]),
        "teacher_trust": float(quality.teacher_trust[row]),
    }


def write_quality(path: Path, quality: LabelQuality, columns: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Write all examples to a Parquet file: the columns of `most_suspicious`.

    Without a label, `label` is None, and `label_wrong` and `label_trust` are NaN, which sorts last.

    Args:
        path: the file.
        quality: the quality of the training examples.
        columns: further or other columns, for example the texts.
    """
    is_labelled = quality.labels != IGNORED
    names = np.array([*quality.names, None], dtype=object)
    written = {
        "row": np.arange(len(quality.labels)),
        "label": names[np.where(is_labelled, quality.labels, -1)].tolist(),
        "teacher": names[quality.answers].tolist(),
        "label_wrong": np.where(is_labelled, quality.wrong, np.nan),
        "label_trust": np.where(is_labelled, quality.label_trust, np.nan),
        "teacher_trust": quality.teacher_trust,
    }
    pq.write_table(pa.table({**written, **(columns or {})}), path)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _share(value: float) -> str:
    return "under 1%" if value < 0.01 else f"about {value:.0%}"


def _percent(value: float) -> str:
    return f"{value:.1%}"
