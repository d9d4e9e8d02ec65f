"""Regimes of a comparison: changes of the labels and teacher outputs of its training examples.

The best fixed weight differs between the regimes, and a rule has no information about the regime.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hf_kd_lambda.losses.functional import IGNORED


class Supervision(NamedTuple):
    """Labels and teacher outputs of a training set."""

    rows: np.ndarray
    """Indices of the examples, `[examples]`."""
    labels: np.ndarray
    """`[examples]`: classes as integers, or floats of a regression."""
    teacher_logits: np.ndarray
    """`[examples, classes]`, or `[examples, 1]` of a regression."""
    lengths: np.ndarray
    """Tokens of each example, `[examples]`."""

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers, not classes."""
        return self.teacher_logits.shape[-1] == 1


Regime = Callable[[Supervision, np.random.Generator], Supervision]


def clean(given: Supervision, rng: np.random.Generator) -> Supervision:
    """No change."""
    return given


def noisy_labels(given: Supervision, rng: np.random.Generator, share: float = 0.3) -> Supervision:
    """Label noise: a share of the labels is a random other class; in a regression, the label of another example."""
    chosen = _draw(rng, share, len(given.rows))
    labels = given.labels.copy()
    if given.is_regression:
        labels[chosen] = labels[np.roll(chosen, 1)]
    else:
        classes = given.teacher_logits.shape[-1]
        labels[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return given._replace(labels=labels)


def few_labels(given: Supervision, rng: np.random.Generator, share: float = 0.1) -> Supervision:
    """Only a share of the examples."""
    chosen = np.sort(_draw(rng, share, len(given.rows)))
    return Supervision(*(column[chosen] for column in given))


def spoiled_teacher(given: Supervision, rng: np.random.Generator, share: float = 0.4) -> Supervision:
    """Teacher noise: on a share of the examples, the teacher's logits are assigned to the wrong classes.

    They are shifted by one or more classes, so that the teacher's confidence is unchanged; in a regression, they are
    those of another example.
    """
    chosen = _draw(rng, share, len(given.rows))
    logits = given.teacher_logits.copy()
    if given.is_regression:
        logits[chosen] = logits[np.roll(chosen, 1)]
    else:
        classes = logits.shape[-1]
        shifts = rng.integers(1, classes, len(chosen))
        columns = (np.arange(classes) - shifts[:, None]) % classes
        logits[chosen] = np.take_along_axis(logits[chosen], columns, axis=-1)
    return given._replace(teacher_logits=logits)


def overconfident_teacher(given: Supervision, rng: np.random.Generator, temperature: float = 0.25) -> Supervision:
    """The teacher is too confident: its logits are divided by a temperature below 1.

    Raises:
        ValueError: in a regression, where there is no confidence.
    """
    _require_classes(given, "overconfident_teacher")
    return given._replace(teacher_logits=given.teacher_logits / temperature)


def uninformative_teacher(given: Supervision, rng: np.random.Generator) -> Supervision:
    """The teacher's outputs are those of other examples: as confident as before, and without information."""
    chosen = rng.permutation(len(given.rows))
    logits = given.teacher_logits.copy()
    logits[chosen] = logits[np.roll(chosen, 1)]
    return given._replace(teacher_logits=logits)


def both(given: Supervision, rng: np.random.Generator, share: float = 0.3) -> Supervision:
    """On a share of the examples the label is wrong; on the same number of others, the teacher."""
    order = rng.permutation(len(given.rows))
    count = max(round(share * len(order)), 1)
    wrong_labels, wrong_teacher = (np.isin(given.rows, given.rows[part]) for part in np.split(order[: 2 * count], 2))
    labels = noisy_labels(given, rng, share=1.0).labels
    logits = spoiled_teacher(given, rng, share=1.0).teacher_logits
    return given._replace(
        labels=np.where(wrong_labels, labels, given.labels),
        teacher_logits=np.where(wrong_teacher[:, None], logits, given.teacher_logits),
    )


def class_blind(given: Supervision, rng: np.random.Generator, distance: float = 10.0) -> Supervision:
    """The teacher never predicts one class, drawn at random: its logit is far below all others.

    Raises:
        ValueError: in a regression, where there are no classes.
    """
    _require_classes(given, "class_blind")
    logits = given.teacher_logits.copy()
    logits[:, rng.integers(logits.shape[-1])] = logits.min(axis=-1) - distance
    return given._replace(teacher_logits=logits)


def hard_noise(given: Supervision, rng: np.random.Generator, share: float = 0.3) -> Supervision:
    """Labels of hard examples are wrong: where the teacher is least confident; in a regression, least accurate."""
    if given.is_regression:
        sure = -np.abs(given.teacher_logits[:, 0] - given.labels)
    else:
        lower, upper = np.sort(given.teacher_logits, axis=-1)[:, -2:].T
        sure = upper - lower
    hard = np.argsort(sure)[: max(round(share * len(sure)), 1)]
    labels = given.labels.copy()
    labels[hard] = noisy_labels(given, rng, share=1.0).labels[hard]
    return given._replace(labels=labels)


def region(given: Supervision, rng: np.random.Generator, share: float = 0.4, wrong: float = 0.7) -> Supervision:
    """The teacher is wrong on most of the longest texts."""
    longest = np.argsort(given.lengths, kind="stable")[-max(round(share * len(given.rows)), 1) :]
    chosen = longest[_draw(rng, wrong, len(longest))]
    logits = given.teacher_logits.copy()
    logits[chosen] = spoiled_teacher(given, rng, share=1.0).teacher_logits[chosen]
    return given._replace(teacher_logits=logits)


def few_labels_transfer(given: Supervision, rng: np.random.Generator, share: float = 0.1) -> Supervision:
    """Only a share of the examples has a label; the teacher's outputs are known for all."""
    unlabelled = np.ones(len(given.rows), dtype=bool)
    unlabelled[_draw(rng, share, len(given.rows))] = False
    missing = np.nan if given.is_regression else IGNORED
    return given._replace(labels=np.where(unlabelled, missing, given.labels).astype(given.labels.dtype))


def noisy_teacher(given: Supervision, rng: np.random.Generator) -> Supervision:
    """The labels of `noisy_labels`, and a teacher that was fine-tuned on them, for each seed."""
    return noisy_labels(given, rng)


LEARNED_BY_TEACHER = (noisy_teacher.__name__,)
"""Regimes whose teacher is fine-tuned on the labels as the regime has them."""
NEEDS_CLASSES = (overconfident_teacher.__name__, class_blind.__name__)
"""Regimes that a regression cannot have."""

REGIMES: dict[str, Regime] = {
    regime.__name__: regime
    for regime in (
        *(clean, noisy_labels, few_labels, spoiled_teacher, overconfident_teacher, uninformative_teacher),
        *(both, class_blind, hard_noise, region, few_labels_transfer, noisy_teacher),
    )
}


def _require_classes(given: Supervision, regime: str) -> None:
    if given.is_regression:
        raise ValueError(f"regimes: {regime} needs classes, but the task is a regression: add it to `skipped`.")


def _draw(rng: np.random.Generator, share: float, examples: int) -> np.ndarray:
    """Rows of a share of the examples, in random order."""
    return rng.permutation(examples)[: max(round(share * examples), 1)]
