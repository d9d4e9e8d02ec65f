"""Embeddings of one tokenizer that are padded to different sizes."""

from collections.abc import Sequence

from transformers import PreTrainedModel
from transformers.utils import logging

from hf_kd_lambda.models.protocol import vocabulary_size

logger = logging.get_logger(__name__)


def align_vocabularies(models: Sequence[PreTrainedModel], tokens: int) -> None:
    """Cut the vocabularies of models with the same tokenizer to the smallest one, in place.

    Families of language models pad their embeddings to different multiples. The rows that are cut belong to no token,
    so no output for a text changes, except for the logits of padding.

    Args:
        models: teachers and student.
        tokens: number of tokens of their tokenizer; if a model has fewer, nothing is changed.
    """
    sizes = [vocabulary_size(model) or 0 for model in models]
    if min(sizes) == max(sizes) or min(sizes) < tokens:
        return
    for model, size in zip(models, sizes, strict=True):
        if size > min(sizes):
            logger.warning(
                f"a {type(model).__name__} has {size} embeddings for the {tokens} tokens of its tokenizer, another "
                f"model {min(sizes)}: the padding is cut to {min(sizes)}."
            )
            model.resize_token_embeddings(min(sizes))
