"""Which layer of the teacher each layer of the student learns from."""

from collections.abc import Mapping, Sequence
from typing import Any


def layer_map(
    spec: str | Mapping[int, int] | Sequence[Sequence[int]], student_layers: int, teacher_layers: int
) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), counted from 0: layer i returns `hidden_states[i + 1]`.

    `uniform` spreads the student's M layers evenly over the teacher's N layers. Counted from 1, student layer m learns
    from teacher layer m·N/M (TinyBERT, Jiao et al. 2020, section 3.1), rounded to the nearest integer, halves up.
    `last` uses the teacher's last M layers in order (as PKD-Last, Sun et al. 2019, but with the last layer, too).

    Args:
        spec: `uniform`, `last`, or explicit pairs, as {student layer: teacher layer} or a list of pairs. Not every
            layer must occur; in a list a layer may occur several times.
        student_layers: M.
        teacher_layers: N.

    Raises:
        ValueError: a layer does not exist, the teacher has too few layers for `last`, or `spec` is invalid.
    """
    if spec == "uniform":
        return [(m - 1, _nearest(m * teacher_layers, student_layers) - 1) for m in range(1, student_layers + 1)]
    if spec == "last":
        if student_layers > teacher_layers:
            raise ValueError(
                f"layers='last' needs a teacher with at least as many layers as the student, but the student has "
                f"{student_layers}, the teacher {teacher_layers}: use 'uniform' or explicit pairs."
            )
        return [(layer, teacher_layers - student_layers + layer) for layer in range(student_layers)]
    pairs = _pairs(spec)
    for student, teacher in pairs:
        if not (0 <= student < student_layers and 0 <= teacher < teacher_layers):
            raise ValueError(
                f"layers={spec!r}: the pair ({student}, {teacher}) does not exist: use the student's layers 0 to "
                f"{student_layers - 1} and the teacher's layers 0 to {teacher_layers - 1}."
            )
    return pairs


def _nearest(numerator: int, denominator: int) -> int:
    """The fraction rounded to the nearest integer, at least 1: a student may be much deeper than its teacher."""
    return max((2 * numerator + denominator) // (2 * denominator), 1)


def _is_number(key: Any) -> bool:
    """Whether a key is an integer written as a string: JSON (on the command line) has string keys only."""
    return isinstance(key, str) and key.isdecimal()


def _pairs(spec: Any) -> list[tuple[int, int]]:
    """Explicit pairs from a settings file, as a list of tuples."""
    try:
        if isinstance(spec, Mapping):
            spec = [(int(layer) if _is_number(layer) else layer, other) for layer, other in spec.items()]
        pairs = [(student, teacher) for student, teacher in spec]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or not all(type(layer) is int for pair in pairs for layer in pair):
        raise ValueError(
            f"layers={spec!r} must be 'uniform', 'last', or pairs of a student layer and a teacher layer, such as "
            "{0: 1, 1: 3} or [[0, 1], [1, 3]]; for attention_kl and relations also 'top'."
        )
    return pairs
