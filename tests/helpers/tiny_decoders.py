"""Decoders that classify texts, small enough for tests."""

import torch
from helpers.tiny_lm import GROUPED, SIZES
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel


def decoder(model_type: str = "llama", **fields: object) -> PreTrainedModel:
    """A classifier of three classes with random weights, each of which matters."""
    torch.manual_seed(0)
    own = GROUPED if model_type != "gpt2" else {}
    settings = {**SIZES, **own, "num_hidden_layers": 2, "num_labels": 3, "initializer_range": 0.3, "pad_token_id": 0}
    config = AutoConfig.for_model(model_type, **{**settings, **fields})
    return AutoModelForSequenceClassification.from_config(config).eval()
