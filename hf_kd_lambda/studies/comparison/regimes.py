"""What labels and teacher are worth: how a comparison spoils the supervision of its training examples.

The best fixed weight differs between the regimes, and a rule is not told in which one it is.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Supervision(NamedTuple):
    """What the examples of a training set are learned from."""

    rows: np.ndarray
    """Which examples, `[examples]`."""
    labels: np.ndarray
    """`[examples]`: classes as integers, or floats of a regression."""
    teacher_logits: np.ndarray
    """`[examples, classes]`, or `[examples, 1]` of a regression."""

    @property
    def is_regression(self) -> bool:
        """Whether a label is a number to be predicted."""
        return self.teacher_logits.shape[-1] == 1


Regime = Callable[[Supervision, np.random.Generator], Supervision]


def clean(given: Supervision, rng: np.random.Generator) -> Supervision:
    """As it is."""
    return given


def noisy_labels(given: Supervision, rng: np.random.Generator, share: float = 0.3) -> Supervision:
    """A share of the labels is wrong: another class, each as likely; of a regression, another example's number."""
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
    """On a share of the examples the teacher says of one class what it thinks of another.

    Its logits are shifted by one class or more, so that it is as sure as before; of a regression they are another
    example's.
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
    """The teacher is surer than it may be: its logits are divided by a temperature below 1.

    Raises:
        ValueError: of a regression, which has no confidence.
    """
    if given.is_regression:
        raise ValueError("the regime overconfident_teacher has no meaning for a regression: leave it out there.")
    return given._replace(teacher_logits=given.teacher_logits / temperature)


REGIMES: dict[str, Regime] = {
    regime.__name__: regime for regime in (clean, noisy_labels, few_labels, spoiled_teacher, overconfident_teacher)
}


def _draw(rng: np.random.Generator, share: float, examples: int) -> np.ndarray:
    """Rows of a share of the examples, in random order, so that the next one in it is any other."""
    return rng.permutation(examples)[: max(round(share * examples), 1)]
