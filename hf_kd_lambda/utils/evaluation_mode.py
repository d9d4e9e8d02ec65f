"""A model in evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Where a model has no dropout and draws no random number; afterwards, its mode is what it was before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
