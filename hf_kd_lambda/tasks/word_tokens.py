"""Tokens of lists of words: those that a tokenizer makes of the words with spaces between them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerBase

_SPACES = ("Ġ", "▁")  # how vocabularies write a space


def word_tokens(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]], **settings: Any
) -> tuple[BatchEncoding, list[list[int | None]]]:
    """Tokens of words, and the word of each token.

    Args:
        tokenizer: a fast tokenizer.
        sentences: lists of words.
        settings: of the tokenizer's call.

    Returns:
        The tokens, and of each the index of its word: None for special tokens, and for a space that is put here and is
        a token of its own, since a causal model has not read the word there.
    """
    if not _needs_spaces(tokenizer):
        tokens = tokenizer(sentences, is_split_into_words=True, **settings)
        return tokens, [tokens.word_ids(row) for row in range(len(sentences))]
    spaced = [[*words[:1], *(f" {word}" if word[:1].strip() else word for word in words[1:])] for words in sentences]
    tokens = tokenizer(spaced, is_split_into_words=True, **settings)
    return tokens, [
        [
            None if piece in _SPACES and word != before else word
            for piece, (before, word) in zip(encoding.tokens, pairwise([None, *encoding.word_ids]), strict=True)
        ]
        for encoding in tokens.encodings
    ]


def _needs_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a word without a space before it is the rest of another one, as for most byte-level tokenizers."""

    def ids(text: str | list[str]) -> list[int]:
        return list(tokenizer(text, is_split_into_words=isinstance(text, list), add_special_tokens=False).input_ids)

    return ids(["a", "a"]) != ids("a a") == ids(["a", " a"])
