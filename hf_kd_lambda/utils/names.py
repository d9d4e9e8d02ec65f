"""Names in settings that are none."""

import difflib
from collections.abc import Iterable


def check_known(name: object, known: Iterable[str], what: str) -> None:
    """Refuse a name that is not known, and tell the nearest that is.

    Args:
        name: as given.
        known: all that there are.
        what: it is a name of, for the message.

    Raises:
        ValueError: it is none of them.
    """
    known = list(known)
    if name in known:
        return
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
    raise ValueError(f"unknown {what} {name!r}: " + (f"did you mean {nearest[0]!r}?" if nearest else "it has none."))
