"""Models and tokenizers small enough for tests, made without a network."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, PreTrainedModel

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "bad", "best", "dull", "film", "good", "great", "is", "it", "not", "sad", "the", "this", "very", "worst"]
PIECES = [letter for c in "abcdefghijklmnopqrstuvwxyz0123456789" for letter in (c, f"##{c}")] + [".", ",", "!", "?"]
VOCABULARY = list(dict.fromkeys(SPECIAL_TOKENS + WORDS + PIECES))

SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def tiny_bert(num_labels: int = 3, layers: int = 4, **config) -> BertForSequenceClassification:
    """A BERT classifier with random weights; `config` overrides any field of `BertConfig`."""
    return BertForSequenceClassification(
        BertConfig(**{**SIZES, "num_labels": num_labels, "num_hidden_layers": layers, **config})
    )


def tiny_tokenizer() -> BertTokenizerFast:
    """A WordPiece tokenizer of every letter and digit, and a few words."""
    return BertTokenizerFast(vocab={token: index for index, token in enumerate(VOCABULARY)}, model_max_length=64)


def save_checkpoint(model: PreTrainedModel, folder: Path) -> str:
    """Save a model with the tiny tokenizer, as `from_pretrained` and `teacher`/`student` take them."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def tiny_batch(size: int = 4, length: int = 8) -> dict[str, torch.Tensor]:
    """Random token ids and an attention mask, each (size, length); every second row ends in padding."""
    mask = torch.ones(size, length, dtype=torch.long)
    mask[1::2, length // 2 :] = 0
    return {
        "input_ids": torch.randint(len(SPECIAL_TOKENS), len(VOCABULARY), (size, length)) * mask,
        "attention_mask": mask,
    }
