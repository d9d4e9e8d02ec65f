"""The padding token of tokenizer and model."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set a missing padding token to the end-of-text token, in place.

    Raises:
        ValueError: the tokenizer has neither.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has neither pad_token nor eos_token, so it cannot pad a "
                "batch: set pad_token in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token


def align_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set `pad_token_id` of a model's configuration to the tokenizer's padding token, in place.

    A decoder classifies a text by its last token that is not `pad_token_id`. With a wrong or missing id it would use
    padding.

    Raises:
        ValueError: the tokenizer has no padding token, or the model has no embedding for it.
    """
    ensure_pad_token(tokenizer)
    config, pad = model.config.get_text_config(), tokenizer.pad_token_id
    size = getattr(config, "vocab_size", None)
    if size is not None and pad >= size:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} pads with token {pad}, but "
            f"{model.name_or_path or type(model).__name__!r} has embeddings for {size} tokens only: set pad_token in "
            "tokenizer_config.json to one of these, such as its eos_token."
        )
    if config.pad_token_id != pad and not model.config.is_encoder_decoder:
        config.pad_token_id = pad
