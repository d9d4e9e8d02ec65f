"""Padding tokens of tokenizers and models."""

import pytest
from helpers.tiny import tiny_bert, tiny_tokenizer
from helpers.tiny_decoders import decoder

from hf_kd_lambda.models.padding import align_pad_token, ensure_pad_token


@pytest.mark.parametrize("pad", [None, 3])
def test_a_decoder_learns_its_tokenizers_padding(pad):
    model = decoder(pad_token_id=pad)
    align_pad_token(model, tiny_tokenizer())
    assert model.config.pad_token_id == tiny_tokenizer().pad_token_id


def test_a_tokenizer_without_padding_takes_its_end_of_text():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    model = decoder(pad_token_id=None)
    align_pad_token(model, tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.sep_token_id


def test_what_cannot_be_aligned_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"neither pad_token nor eos_token.*set pad_token in its tokenizer_config"):
        ensure_pad_token(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    with pytest.raises(
        ValueError, match=f"pads with token {len(tokenizer) - 1}, but .* has embeddings for .* tokens only"
    ):
        align_pad_token(decoder(), tokenizer)


def test_a_model_that_fits_stays_as_it_is():
    model = tiny_bert(layers=1)
    before = model.config.to_dict()
    align_pad_token(model, tiny_tokenizer())
    assert model.config.to_dict() == before
