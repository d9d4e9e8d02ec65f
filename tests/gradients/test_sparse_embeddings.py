"""Gradients of embeddings as rows: the same matrix and the same sum as of dense ones."""

import contextlib

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.gradients.pair import GradientPair
from hf_kd_lambda.gradients.sparse_embeddings import embedding_rows


class Tagger(nn.Module):
    """An embedding, frozen or trained, of which the second head's loss may see tokens of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 4)
        self.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

    def forward(self, tokens, others=None):
        hidden = [self.embedding(ids).mean(1) for ids in (tokens, tokens if others is None else others)]
        first, second = (head(state) for head, state in zip(self.heads, hidden, strict=True))
        return SequenceClassifierOutput(logits=first, hidden_states=(second,))


def tagger_pair(batches, rows):
    model = Tagger()
    pair = GradientPair(model.parameters())
    with embedding_rows(model) if rows else contextlib.nullcontext():
        for batch in batches:
            outputs, cut = cut_outputs(model(*batch))
            pair.accumulate(cut, outputs.logits.square().sum(), outputs.hidden_states[0].sin().sum())
    return model, pair


TOKENS = torch.tensor([[1, 2, 2], [3, 1, 0]])
OTHERS = torch.tensor([[1, 7, 7], [8, 9, 0]])


@pytest.mark.parametrize(
    "batches",
    [[(TOKENS,)], [(TOKENS,), (OTHERS,)], [(TOKENS, OTHERS)]],
    ids=["one batch", "accumulated", "other tokens for each loss"],
)
def test_rows_have_the_gram_matrix_and_the_sum_of_dense_gradients(batches):
    (dense_model, dense), (rows_model, rows) = tagger_pair(batches, rows=False), tagger_pair(batches, rows=True)
    assert rows_model.embedding.weight.grad.is_sparse
    torch.testing.assert_close(rows.gram(), dense.gram())
    weights = torch.tensor(0.3), torch.tensor(0.7)
    torch.testing.assert_close(rows.combined_norm(*weights), dense.combined_norm(*weights))
    for pair in (dense, rows):
        pair.combine(*weights)
    for found, expected in zip(rows_model.parameters(), dense_model.parameters(), strict=True):
        assert not found.grad.is_sparse
        torch.testing.assert_close(found.grad, expected.grad)


def test_gradients_that_are_scaled_by_the_frequency_of_a_token_stay_dense():
    model = Tagger()
    model.embedding.scale_grad_by_freq = True
    with embedding_rows(model):
        model(TOKENS).logits.sum().backward()
    assert not model.embedding.weight.grad.is_sparse


def test_a_loss_that_reaches_no_embedding_adds_nothing_to_its_rows():
    model = Tagger()
    pair = GradientPair(model.parameters())
    with embedding_rows(model):
        outputs, cut = cut_outputs(model(TOKENS))
        pair.accumulate(cut, outputs.logits.sum(), outputs.hidden_states[0].sum())
    pair.kd_grads[0] = None  # as if the KD loss had not
    gram = pair.gram()
    assert gram.is_finite()
    pair.combine(torch.tensor(1.0), torch.tensor(1.0))
    assert not model.embedding.weight.grad.is_sparse


def test_rows_and_zeros_take_the_layout_of_another_rank():
    model = Tagger()
    pair = GradientPair(model.parameters())
    with embedding_rows(model):
        outputs, cut = cut_outputs(model(TOKENS))
        pair.accumulate(cut, outputs.logits.sum(), outputs.hidden_states[0].sum())
    task, layouts = model.embedding.weight.grad, pair._layouts()
    assert layouts == [1, 2, 2, 2, 2]
    pair.drop()
    pair._fill_missing([0, 2, 1, 0, 0])
    assert [parameter.grad is None for parameter in pair.parameters] == [True, False, False, True, True]
    assert [grad.is_sparse for grad in (pair.parameters[1].grad, pair.parameters[2].grad)] == [False, True]
    assert pair.kd_grads[2].to_dense().eq(0).all()
    model.embedding.weight.grad = task  # another rank has no rows, or a dense gradient
    pair._fill_missing([2, 0, 0, 0, 0])
    assert not model.embedding.weight.grad.is_sparse
    torch.testing.assert_close(model.embedding.weight.grad, task.to_dense())
    assert pair.kd_grads[0].eq(0).all()


def test_rows_are_for_the_measuring_step_alone():
    model = Tagger()
    already_sparse = nn.Embedding(5, 4, sparse=True)
    model.extra = already_sparse

    def fail_within():
        with embedding_rows(model):
            assert model.embedding.sparse
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within()
    assert not model.embedding.sparse
    assert already_sparse.sparse
