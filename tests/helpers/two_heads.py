"""A student of two outputs with two losses, and their gradients as `torch.autograd.grad` gives them."""

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.gradients.pair import GradientPair


class TwoHeads(nn.Module):
    """A body with a head for each loss, and a layer that neither uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.task_head, self.kd_head, self.unused = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, x):
        hidden = self.body(x).tanh()
        return SequenceClassifierOutput(logits=self.task_head(hidden), hidden_states=(x, self.kd_head(hidden)))


def two_losses(outputs):
    """A task loss of one output, a KD loss of both."""
    return outputs.logits.square().mean(), outputs.hidden_states[1].sin().sum() + outputs.logits.sum()


def expected_gradients(model, batches):
    """The gradients of both losses, summed over the batches, by `torch.autograd.grad`; zeros where there is none."""
    sums = []
    for index in range(2):
        loss = sum(two_losses(model(batch))[index] for batch in batches)
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        sums.append([torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), grads, strict=True)])
    return sums


def accumulate(pair: GradientPair, model: nn.Module, batches) -> GradientPair:
    """Give each of the micro-batches to the pair."""
    for batch in batches:
        outputs, cut = cut_outputs(model(batch))
        pair.accumulate(cut, *two_losses(outputs))
    return pair
