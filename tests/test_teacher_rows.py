"""What is kept of a batch of outputs: one row an example, of its tokens alone."""

import pickle

import pytest
import torch

from hf_kd_lambda.teacher_rows import hidden_rows, logits_rows, padded, top_logits_rows

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])  # padded on the right, and on the left
TOKENS = [4, 2, 1]


@pytest.fixture
def logits():
    return torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0)) * 3


def unpadded(values):
    return [row[mask.bool()] for row, mask in zip(values, MASK, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_kept_in_fp32(dtype):
    logits = torch.randn(4, 3).to(dtype)
    (rows,) = logits_rows(logits).values()
    assert {row.dtype for row in rows} == {torch.float32}
    assert torch.equal(torch.stack(rows), logits.float())


def test_logits_of_tokens_are_kept_without_padding(logits):
    (rows,) = logits_rows(logits.bfloat16(), MASK).values()
    assert [row.shape for row in rows] == [(tokens, 50) for tokens in TOKENS]
    assert all(torch.equal(row, own) for row, own in zip(rows, unpadded(logits.bfloat16().float()), strict=True))
    (whole,) = logits_rows(logits).values()
    assert torch.equal(torch.stack(whole), logits)


def test_the_mask_of_the_inputs_is_none_of_logits_of_examples(logits):
    (rows,) = logits_rows(logits[:, 0], MASK).values()
    assert torch.equal(torch.stack(rows), logits[:, 0])


@pytest.mark.parametrize("length", [4, 6])
def test_rows_are_padded_as_their_batch_is_whichever_they_were_kept_from(logits, length):
    mask = torch.zeros(3, length, dtype=torch.long)
    for row, tokens in enumerate(TOKENS):
        mask[row, length - tokens :] = 1
    batch = padded(unpadded(logits), mask)
    assert batch.shape == (3, length, 50)
    assert torch.equal(batch[mask.bool()], torch.cat(unpadded(logits)))
    assert not batch[~mask.bool()].any()
    assert torch.equal(padded(unpadded(logits), MASK), logits * MASK.unsqueeze(-1))


def test_rows_for_other_tokens_are_refused(logits):
    with pytest.raises(ValueError, match="for 2 tokens, but it has 1: keep one for each token"):
        padded(unpadded(logits)[:2], torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]))


def test_a_row_is_sent_to_other_ranks_without_the_rest_of_its_batch():
    sizes = [len(pickle.dumps(logits_rows(torch.zeros(1, classes))["teacher_logits"])) for classes in (3, 300)]
    (rows,) = logits_rows(torch.zeros(100, 3)).values()
    assert len(pickle.dumps(rows)) <= 100 * sizes[0]
    assert sizes[1] > sizes[0]


def test_the_largest_logits_and_their_tokens_are_kept(logits):
    rows = top_logits_rows(logits, MASK, k=5)
    assert [len(row) for row in rows["teacher_top_logits"]] == TOKENS
    for row, values, indices in zip(
        unpadded(logits), rows["teacher_top_logits"], rows["teacher_top_indices"], strict=True
    ):
        assert (values.dtype, indices.dtype) == (torch.float16, torch.int32)
        assert torch.equal(values, row.sort(descending=True).values[:, :5].half())
        assert torch.equal(row.gather(1, indices.long()).half(), values)


def test_the_normalizer_gives_the_mass_of_the_tail(logits):
    rows = top_logits_rows(logits, MASK, k=5)
    for row, values, normalizer in zip(
        unpadded(logits), rows["teacher_top_logits"], rows["teacher_log_normalizer"], strict=True
    ):
        assert normalizer.dtype == torch.float32
        expected = row.softmax(-1).topk(5).values
        torch.testing.assert_close((values.float() - normalizer).exp(), expected, rtol=5e-3, atol=1e-5)
        assert (expected.sum(-1) < 0.999).all(), "the tail must weigh something for the comparison to mean anything"


def test_hidden_states_are_those_of_the_layers_asked_for():
    states = [torch.randn(3, 4, 8) for _ in range(4)]
    rows = hidden_rows(states, MASK, layers=[0, 3])
    assert set(rows) == {"teacher_hidden_0", "teacher_hidden_3"}
    for layer in (0, 3):
        kept = rows[f"teacher_hidden_{layer}"]
        assert {row.dtype for row in kept} == {torch.float16}
        assert [row.shape for row in kept] == [(tokens, 8) for tokens in TOKENS]
        assert all(torch.equal(row, own.half()) for row, own in zip(kept, unpadded(states[layer]), strict=True))
