"""Whether two tokenizers make the same tokens of the same texts, so that one set of inputs serves both models."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_kd_lambda.tasks.word_tokens import word_tokens

SAMPLE = 100  # texts of each split, in addition to its longest and its shortest
# What normalisers, special tokens and templates treat in different ways: case, accents, width, white space, controls.
PROBES = (
    "",
    " ",
    "The THE the tHe",
    "ÀÉÎÕÜ àéîõü Straße Ǆ İ ı",
    "  two  spaces\tand\na line\r\n ",
    "don't \"quote\" ``this'' — it’s 1,234.56 e-mail@x.org",
    "你好世界 Ｆｕｌｌ ﬁ ½ ™ \u00ad\u200b\u0007",
    "<s> </s> [CLS] [SEP] [MASK] <pad> [PAD] <unk> <|endoftext|>",
)

Texts = tuple[Any, ...]


def make_same_tokens(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, data: DatasetDict | None = None
) -> bool:
    """Whether vocabularies are the same, and the tokens of sample texts, special ones included.

    Args:
        teacher, student: their tokenizers.
        data: has the texts in `text` and `text_pair`, in `words`, or in `messages`. None for texts of ours alone.
    """
    if teacher.get_vocab() != student.get_vocab():
        return False
    probes: list[Texts] = [(probe,) for probe in PROBES] + list(zip(PROBES, reversed(PROBES), strict=True))
    samples = [probes, *(list(_sample(split)) for split in (data or {}).values())]
    return all(_ids(teacher, texts) == _ids(student, texts) for texts in samples)


def cut_alike(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase, max_length: int | None) -> bool:
    """Whether two tokenizers are set to normalise, split, cut and pad texts alike.

    Args:
        teacher, student: their tokenizers.
        max_length: maximum number of tokens, if lower than the tokenizer's own limit; None for its own alone.
    """

    def settings(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        length = tokenizer.model_max_length
        steps = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
        return [
            *(steps.get(name) for name in ("normalizer", "pre_tokenizer", "model", "post_processor", "added_tokens")),
            *(tokenizer.model_input_names, tokenizer.pad_token_id, tokenizer.all_special_ids),
            *(tokenizer.padding_side, tokenizer.truncation_side),
            length if max_length is None else min(length, max_length),
        ]

    return settings(teacher) == settings(student)


def _sample(split: Any) -> Iterator[Texts]:
    columns = [column for column in ("text", "text_pair", "words", "messages") if column in split.column_names]
    lengths = [len(first) for first in split[columns[0]][:]]
    by_length = sorted(range(len(split)), key=lengths.__getitem__)
    ends = by_length[:5] + by_length[-5:]
    spread = range(0, len(split), max(1, len(split) // SAMPLE))
    chosen = split.select(sorted({*ends, *spread}))
    texts = zip(*(chosen[column][:] for column in columns), strict=True)
    return ((_text_of(*values),) for values in texts) if columns == ["messages"] else texts


def _text_of(messages: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _ids(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Texts]) -> list[list[int]]:
    """Tokens of texts, pairs or lists of words."""
    if examples and isinstance(examples[0][0], list):
        return word_tokens(tokenizer, [words for (words,) in examples], verbose=False)[0].input_ids
    return [tokenizer(*texts, verbose=False).input_ids for texts in examples]
