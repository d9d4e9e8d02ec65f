"""A small BERT whose classes have names, and its logits of one batch."""

import torch
from helpers.tiny import tiny_batch, tiny_bert

NAMES = ["negative", "neutral", "positive"]


def named_bert(*names, **config):
    return tiny_bert(num_labels=len(names), layers=1, id2label=dict(enumerate(names)), **config).eval()


@torch.no_grad()
def logits(model):
    torch.manual_seed(0)
    return model(**tiny_batch()).logits
