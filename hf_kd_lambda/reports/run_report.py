"""report.html of a single run: scores, size and speed, what λ did, and where student and teacher differ."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.reports.class_scores import class_rows
from hf_kd_lambda.reports.label_quality import explain_quality
from hf_kd_lambda.reports.model_card import CardFacts, run_notes, shown_settings, training_examples
from hf_kd_lambda.reports.page import Entry, Picture, Section, Table, text_entry
from hf_kd_lambda.reports.results import table_rows
from hf_kd_lambda.reports.summary import explain_lambda

MOST_EXAMPLES = 20
LONGEST_TEXT = 300  # characters
SMALL_DIFFERENCE = 0.1  # of probabilities, up to which two models that name the same class agree
_DIFFERENCE = (
    "Difference: half the sum of |p − q| over the classes, with p and q the probabilities of both; 1 at most."
)
_DISTANCE = "Difference: the distance of both numbers."
LAMBDA_IN_WORDS = "λ is the weight of the KD loss, which follows the teacher, relative to the task loss on the labels."


class Differing(NamedTuple):
    """An example on which student and teacher differ."""

    text: str
    label: str
    student: str
    teacher: str
    difference: float


def most_differing(
    texts: Sequence[str],
    labels: Sequence[Any],
    student_logits: Tensor,
    teacher_logits: Tensor,
    names: Sequence[str] | None,
) -> list[Differing]:
    """The examples on which student and teacher differ most, the largest difference first.

    If they name the same class, a difference of up to `SMALL_DIFFERENCE` does not count.

    Args:
        texts, labels: texts and labels of the examples; labels are classes, or numbers of a regression.
        student_logits, teacher_logits: `[examples, classes]`, `[examples, 1]` for a regression.
        names: class names; None for a regression.
    """
    student, teacher = student_logits.double(), teacher_logits.double()
    if names is None:
        differences = (student - teacher).abs().flatten()
        differs = differences > 0
    else:
        student, teacher = student.softmax(-1), teacher.softmax(-1)
        differences = (student - teacher).abs().sum(-1) / 2
        differs = (differences > SMALL_DIFFERENCE) | (student.argmax(-1) != teacher.argmax(-1))
    order = differences.argsort(descending=True, stable=True)
    rows = order[differs[order]][:MOST_EXAMPLES].tolist()
    return [
        Differing(
            _shortened(texts[row]),
            _named(labels[row], names),
            _answer(student[row], names),
            _answer(teacher[row], names),
            float(differences[row]),
        )
        for row in rows
    ]


def _shortened(text: str) -> str:
    """A text of bounded length."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} …"


def _named(label: Any, names: Sequence[str] | None) -> str:
    if names is None:
        return f"{label:.3g}"
    return names[label] if 0 <= label < len(names) else "none"


def _answer(output: Tensor, names: Sequence[str] | None) -> str:
    if names is None:
        return f"{output.item():.3g}"
    best = int(torch.argmax(output))
    return f"{names[best]} ({output[best]:.0%})"


def run_page(
    card: CardFacts,
    split: str,
    figure: Path,
    differing: Sequence[Differing] | None = None,
    suspicious: Sequence[Mapping[str, Any]] = (),
) -> Section:
    """The page of a run, see `as_html`.

    Args:
        card: facts of the run.
        split: evaluated on.
        figure: figure of λ.
        differing: see `most_differing`; None where it was not compared.
        suspicious: see `most_suspicious`.
    """
    sections = [_scores(card, split), *_classes(card), _balance(card, figure)]
    if differing is not None:
        sections.append(_differing(card, split, differing))
    if card.label_quality is not None:
        sections.append(_labels(card, suspicious))
    sections.append(_settings(card.settings))
    notes = [f"Training examples: {training_examples(card.examples)}."] if "train" in card.examples else []
    return Section(f"{card.name}: report of the run", notes, sections=sections)


def _scores(card: CardFacts, split: str) -> Section:
    head, *rows = zip(*table_rows(card.reports, card.chance), strict=True)
    table = Table(["measure", *head[1:]], [[text_entry(row[0]), *map(_number, row[1:])] for row in rows])
    count = card.examples.get(split, 0)
    notes = [f"On the {split} split, {count:,} examples."]
    notes += run_notes(card)
    notes.append("Latency is the time of one forward with one example, on the machine of the run.")
    return Section("Scores, size and speed", notes, table)


def _classes(card: CardFacts) -> list[Section]:
    """The student's scores of each class, where they are known."""
    if not (scores := card.reports[-1].classes):
        return []
    head, *rows = class_rows(scores)
    table = Table(head, [[text_entry(row[0]), *map(_number, row[1:])] for row in rows])
    return [Section("Scores of the student by class", table=table)]


def _number(text: str) -> Entry:
    try:
        return Entry(text, float(text))
    except ValueError:
        return Entry(text)


def _balance(card: CardFacts, figure: Path) -> Section:
    history = [dict(entry) for entry in card.log_history]
    pictures = [Picture(figure, "λ, what limited it and what it was computed from, over the optimizer steps")]
    return Section("What λ did", [LAMBDA_IN_WORDS, *explain_lambda(history).splitlines()], pictures=pictures)


def _differing(card: CardFacts, split: str, differing: Sequence[Differing]) -> Section:
    title = "Where student and teacher differ most"
    if not differing:
        agree = f"name the same class, and differ by {SMALL_DIFFERENCE} at most" if card.labels else "agree"
        return Section(title, [f"On all examples of the {split} split, they {agree}."])
    rows = [
        [
            *map(text_entry, (example.text, example.label, example.student, example.teacher)),
            Entry(f"{example.difference:.2f}", example.difference),
        ]
        for example in differing
    ]
    table = Table(["text", "label", "student", "teacher", "difference"], rows)
    notes = [
        f"Examples of the {split} split.",
        _DIFFERENCE if card.labels else _DISTANCE,
        "Look here for wrong labels, errors of the teacher, and what a small student cannot do.",
    ]
    return Section(title, notes, table)


def _labels(card: CardFacts, suspicious: Sequence[Mapping[str, Any]]) -> Section:
    """What looks wrong with the labels, and the examples to look at first."""
    notes = [explain_quality(card.label_quality or {})]
    if not suspicious:
        return Section("Labels that look wrong", [*notes, "No single label looks wrong."])
    columns = ["row", "label", "teacher", "label_wrong", *(["text"] if "text" in suspicious[0] else [])]
    shown = [{**example, "text": _shortened(example.get("text", ""))} for example in suspicious]
    rows = [[_cell(example[name]) for name in columns] for example in shown]
    notes.append(
        "The training examples whose labels look wrong most, with the probability that the label is wrong. Check them "
        "by hand. Rows are counted from 0 without the header: row 0 is line 2 of a csv file."
    )
    heads = ["probability" if name == "label_wrong" else name for name in columns]
    return Section("Labels that look wrong", notes, Table(heads, rows))


def _cell(value: Any) -> Entry:
    if isinstance(value, str):
        return text_entry(value)
    return Entry(f"{value:.2f}" if isinstance(value, float) else str(value), value)


def _settings(settings: Mapping[str, Any]) -> Section:
    shown = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in shown_settings(settings).items()
    }
    rows = [[text_entry(name), text_entry(value)] for name, value in sorted(shown.items())]
    return Section("All settings", table=Table(["setting", "value"], rows), folded=True)
