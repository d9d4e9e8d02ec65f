"""Points to probe: a tiny BERT, and moments of AdamW."""

import torch
from helpers.tiny import tiny_batch, tiny_bert
from torch import nn
from torch.optim import AdamW

from hf_kd_lambda.studies.probe.steps import Losses, losses_on


def bert_losses() -> tuple[nn.Module, Losses]:
    """A tiny BERT in fp64, and both of its losses on a batch."""
    model = tiny_bert(layers=2).double()
    teacher_logits = torch.randn(4, 3, dtype=torch.double)
    return model, losses_on(model, tiny_batch(), teacher_logits, torch.tensor([0, 1, 2, 1]), temperature=2.0)


def stepped_adamw(model: nn.Module, losses: Losses, steps: int = 20, **settings) -> AdamW:
    """AdamW after some steps, along other mixtures of both gradients each."""
    optimizer = AdamW(model.parameters(), lr=1e-3, **settings)
    for _ in range(steps):
        optimizer.zero_grad()
        (torch.rand(2, dtype=torch.double) @ losses()).backward()
        optimizer.step()
    optimizer.zero_grad()
    return optimizer
