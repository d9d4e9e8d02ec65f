"""Check names, and suggest the closest valid one."""

import difflib
from collections.abc import Iterable, Mapping

CLOSE = 0.75  # difflib ratio: one of four letters may differ; `epochs` is not close to `teacher_epochs`
LISTED_CLASSES = 12
LISTED = 30  # longer lists of names are not printed


def closest_name(name: object, known: Iterable[str], short_names: Mapping[str, str] | None = None) -> str | None:
    """The closest valid name.

    Args:
        name: an unknown name.
        known: all valid names.
        short_names: maps common short names, for example `lr`, to valid names.

    Returns:
        None if no name is close.
    """
    known = list(known)
    wanted = str(name).casefold().replace("-", "_")
    meant = (short_names or {}).get(wanted)
    if meant in known:
        return meant
    by_spelling = {candidate.casefold().replace("-", "_"): candidate for candidate in known}
    close = difflib.get_close_matches(wanted, by_spelling, n=1, cutoff=CLOSE)
    return by_spelling[close[0]] if close else None


def suggestion(name: object, known: Iterable[str], short_names: Mapping[str, str] | None = None) -> str:
    """The end of a message about an unknown name: the closest valid name, or all names; see `closest_name`."""
    known = list(known)
    if (closest := closest_name(name, known, short_names)) is not None:
        return f"did you mean {closest!r}?"
    if not known:
        return "it has none."
    if len(known) <= LISTED:
        return f"choose from {', '.join(known)}."
    return f"none of the {len(known)} valid names is close to it."


def check_known(name: object, known: Iterable[str], what: str) -> None:
    """Check that a name is known.

    Args:
        name, known: see `closest_name`.
        what: what the name denotes, for the message.

    Raises:
        ValueError: the name is unknown; the message suggests the closest one, or all names.
    """
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: {suggestion(name, known)}")


def in_order(names: Iterable[str]) -> str:
    """Which class each integer stands for, in words."""
    listed = [f"{index} is {name}" for index, name in enumerate(names)]
    return ", ".join([*listed[:LISTED_CLASSES], *(["…"] if len(listed) > LISTED_CLASSES else [])])
