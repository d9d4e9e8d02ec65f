"""Padding tokens: tokenizers that have one, and models that know it."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer without a padding token its end of text as one, in place.

    Raises:
        ValueError: it has no end of text either.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has neither pad_token nor eos_token, so that it cannot pad "
                "a batch: set pad_token in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token


def align_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Have a model's configuration name the token that its tokenizer pads with, in place.

    A decoder classifies a text by its last token that is not `pad_token_id`: another id there, or none, makes it
    read the padding.

    Raises:
        ValueError: the tokenizer has no padding token, or the model no embedding of it.
    """
    ensure_pad_token(tokenizer)
    config, pad = model.config.get_text_config(), tokenizer.pad_token_id
    size = getattr(config, "vocab_size", None)
    if size is not None and pad >= size:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} pads with token {pad}, of which "
            f"{model.name_or_path or type(model).__name__!r} has no embedding ({size} tokens): set pad_token in "
            "tokenizer_config.json to a token that the model knows, such as its eos_token."
        )
    if config.pad_token_id != pad and not model.config.is_encoder_decoder:
        config.pad_token_id = pad
