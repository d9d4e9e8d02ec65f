"""Padding tokens of tokenizers and models."""

import pytest
import torch
from helpers.tiny import tiny_bert, tiny_tokenizer
from helpers.tiny_decoders import decoder

from hf_kd_lambda.models.padding import ModelBatch, align_pad_token, ensure_pad_token, padding_difference


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


class Imprecise(torch.nn.Module):
    """Its logits change by 0.005 where a text is padded: more than rounding in fp32, and less than in bf16."""

    def __init__(self, autocast):
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(4, 2)
        self.autocast = autocast

    def forward(self, input_ids, attention_mask):
        hidden = (self.embedding(input_ids) * attention_mask.unsqueeze(-1)).sum(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = self.head(hidden)
        return logits.float() + 0.005 * attention_mask.eq(0).any(1, keepdim=True)


@pytest.mark.parametrize("autocast", [False, True])
def test_rounding_of_autocast_is_no_padding_read(autocast):
    model = Imprecise(autocast)
    long, short = ([1, 2, 3], [1, 1, 1]), ([4], [1])
    padded = ([[1, 2, 3], [4, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    alone, together = [batch([ids], [mask]) for ids, mask in (long, short)], batch(*padded)
    found = padding_difference(model, "teacher", alone, together)
    assert found == (0 if autocast else pytest.approx(0.005, abs=1e-5))
    assert not any(module._forward_hooks for module in model.modules())


def batch(ids, mask):
    tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    return ModelBatch(tensors, tensors["attention_mask"])
