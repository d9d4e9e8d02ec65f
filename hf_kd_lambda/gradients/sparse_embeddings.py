"""Sparse gradients of embeddings while a measuring step takes both gradients."""

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def embedding_rows(model: nn.Module) -> Iterator[None]:
    """In this context, the gradient of an embedding is sparse: it holds the rows of the tokens in the batch.

    A dense gradient is mostly zeros. Writing them twice, and multiplying and adding them, is a sixth of the cost
    of the second gradient of a small student with a large vocabulary on a CPU.
    """
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    # A frozen embedding has no gradient, and the gradient of an adapter on it would pass through a transposition.
    dense = [embedding for embedding in embeddings if embedding.weight.requires_grad and not embedding.sparse]
    try:
        for embedding in dense:
            embedding.sparse = True
        yield
    finally:
        for embedding in dense:
            embedding.sparse = False
