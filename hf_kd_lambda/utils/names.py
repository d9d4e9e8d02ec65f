"""Refuse unknown names, and suggest the closest valid one."""

import difflib
from collections.abc import Iterable, Mapping

CLOSE = 0.75  # as difflib measures it: one letter of four may be another, `epochs` is not close to `teacher_epochs`
LISTED = 12  # more names than these fill a screen


def closest_name(name: object, known: Iterable[str], short_names: Mapping[str, str] | None = None) -> str | None:
    """The valid name that was probably meant.

    Args:
        name: as given.
        known: all valid names.
        short_names: valid names by what people commonly write instead, e.g. `lr`.

    Returns:
        None where no name is close.
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
    """What a message about an unknown name recommends: the closest valid name, or the choice; see `closest_name`."""
    known = list(known)
    if (closest := closest_name(name, known, short_names)) is not None:
        return f"did you mean {closest!r}?"
    if not known:
        return "it has none."
    if len(known) <= LISTED:
        return f"choose from {', '.join(known)}."
    return f"none of the {len(known)} valid names is close to it."


def check_known(name: object, known: Iterable[str], what: str, short_names: Mapping[str, str] | None = None) -> None:
    """Refuse a name that is not known.

    Args:
        name, known, short_names: see `closest_name`.
        what: the name is for, as the message calls it.

    Raises:
        ValueError: the name is not known; the message suggests the closest one, or the choice.
    """
    known = list(known)
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: {suggestion(name, known, short_names)}")
