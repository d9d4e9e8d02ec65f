"""Embeddings of one tokenizer that are padded to different sizes."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging

logger = logging.get_logger(__name__)


def align_vocabularies(models: Sequence[PreTrainedModel], tokens: int) -> None:
    """Cut the vocabularies of models with the same tokenizer to the smallest one, in place.

    Families of language models pad their embeddings to different multiples. The rows that are cut belong to no token,
    so no output for a text changes, except for the logits of padding.

    Args:
        models: teachers and student.
        tokens: number of tokens of their tokenizer; if a model has fewer, nothing is changed.
    """
    configs: list[Any] = [model.config for model in models]
    sizes: list[int] = [getattr(config, "vocab_size", 0) for config in configs]
    if min(sizes) == max(sizes) or min(sizes) < tokens:
        return
    for model, size in zip(models, sizes, strict=True):
        if size > min(sizes):
            logger.warning(
                f"a {type(model).__name__} has {size} embeddings for the {tokens} tokens of its tokenizer, another "
                f"model {min(sizes)}: the padding is cut to {min(sizes)}."
            )
            model.resize_token_embeddings(min(sizes))
