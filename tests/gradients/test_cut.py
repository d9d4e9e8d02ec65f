"""Outputs cut from their graph: what becomes a leaf, and what a loss sends back."""

from dataclasses import dataclass

import pytest
import torch
from helpers.two_heads import TwoHeads, two_losses
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput

from hf_kd_lambda.gradients.cut import cut_outputs


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator) for size in (4, 2)]


def test_differentiable_outputs_become_leaves_and_the_rest_is_kept(batches):
    outputs = TwoHeads()(batches[0])
    copy, cut = cut_outputs(outputs)
    assert type(copy) is SequenceClassifierOutput
    assert cut.roots[0] is outputs.logits
    assert copy.logits is cut.leaves[0]
    assert copy.logits.is_leaf
    assert copy.logits.requires_grad
    assert torch.equal(copy.logits, outputs.logits)
    assert copy.hidden_states[0] is batches[0], "the input needs no gradient and is passed on"
    assert copy.hidden_states[1] is cut.leaves[1]
    assert copy.loss is None
    assert copy.attentions is None


@dataclass
class NeedsLogits(ModelOutput):
    """`ModelOutput` allows one field without a default."""

    logits: torch.Tensor
    extra: torch.Tensor | None = None


def test_outputs_may_have_a_required_field_and_further_entries():
    outputs = NeedsLogits(torch.ones(2, requires_grad=True) * 2)
    outputs["projected"] = torch.ones(2, requires_grad=True) * 3
    copy, cut = cut_outputs(outputs)
    assert type(copy) is NeedsLogits
    assert copy.logits is cut.leaves[0]
    assert copy["projected"] is cut.leaves[1]
    assert outputs.logits is cut.roots[0]


@pytest.mark.parametrize("kind", [tuple, list])
def test_nested_sequences_are_cut_too(kind):
    x = torch.ones(2, requires_grad=True)
    outputs, cut = cut_outputs({"cache": kind([kind([x * 2, None]), kind([x * 3])])})
    assert [root.tolist() for root in cut.roots] == [[2, 2], [3, 3]]
    assert outputs["cache"][0][1] is None
    assert outputs["cache"][1][0] is cut.leaves[1]


def test_seeds_are_none_for_outputs_that_a_loss_does_not_use(batches):
    outputs, cut = cut_outputs(TwoHeads()(batches[0]))
    task, kd = two_losses(outputs)
    logits_seed, hidden_seed = cut.seeds(task)
    torch.testing.assert_close(logits_seed, 2 * outputs.logits / outputs.logits.numel())
    assert hidden_seed is None
    assert all(seed is not None for seed in cut.seeds(kd))
