"""The first examples of a dataset of any kind."""

from itertools import islice
from typing import Any


def first_examples(dataset: Any, count: int) -> list[Any]:
    """At most `count` examples, from the first on.

    A torch Dataset without `__iter__` is read up to its length. Beyond it, `__getitem__` may raise any error, but a
    `for` loop ends at an IndexError alone.
    """
    if hasattr(dataset, "__iter__"):
        return list(islice(dataset, count))
    return [dataset[row] for row in range(min(count, len(dataset)))]
