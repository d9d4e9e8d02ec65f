"""Sparse gradients of embeddings while a measuring step takes both gradients."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def embedding_rows(model: nn.Module) -> Iterator[None]:
    """In this context, the gradient of an embedding is sparse: the rows of the tokens in the batch.

    A dense one is mostly zeros. To write these twice, and to multiply and add them, is a sixth of what a small student
    with a large vocabulary pays on a CPU for its second gradient.
    """
    embeddings = [each for each in model.modules() if isinstance(each, nn.Embedding)]
    # A frozen one has none, and that of an adapter beside it would be taken through a transposition.
    dense = [each for each in embeddings if each.weight.requires_grad and not each.sparse]
    try:
        for embedding in dense:
            embedding.sparse = True
        yield
    finally:
        for embedding in dense:
            embedding.sparse = False
