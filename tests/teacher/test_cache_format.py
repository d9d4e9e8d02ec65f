"""What is kept of a batch of outputs: one row an example, of its tokens alone; and a batch of it again."""

import pickle

import pytest
import torch
from datasets import Dataset

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.teacher.cache_format import CacheFormat, cached_members, teacher_weights_in
from hf_kd_lambda.teacher.collator import ColumnCollator, unpacked

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])  # padded on the right, and on the left
TOKENS = [4, 2, 1]
CLASSES = 50


@pytest.fixture
def logits():
    return torch.randn(3, 4, CLASSES, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def hidden_states():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(3, 4, 8, generator=generator) for _ in range(4))


def unpadded(values):
    return [row[mask.bool()] for row, mask in zip(values, MASK, strict=True)]


def unpacked_rows(rows):
    return [unpacked(row) for row in rows["teacher_outputs"]]


def batch_of(rows, length=4):
    """The batch that training gets from cached rows."""
    examples = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    mask = torch.zeros(3, length, dtype=torch.long)
    for row, tokens in enumerate(TOKENS):
        mask[row, length - tokens :] = 1
    return ColumnCollator(lambda given: {"attention_mask": mask}, None)(examples), mask.bool()


# --- logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_kept_in_fp32(dtype):
    logits = torch.randn(4, 3).to(dtype)
    (rows,) = CacheFormat().rows(TeacherBatch(logits), None).values()
    assert {row.dtype for row in rows} == {torch.float32}
    assert torch.equal(torch.stack(rows), logits.float())


def test_logits_of_tokens_are_kept_without_padding(logits):
    (rows,) = CacheFormat().rows(TeacherBatch(logits.bfloat16()), MASK).values()
    assert [row.shape for row in rows] == [(tokens, CLASSES) for tokens in TOKENS]
    assert all(torch.equal(row, own) for row, own in zip(rows, unpadded(logits.bfloat16().float()), strict=True))
    (whole,) = CacheFormat().rows(TeacherBatch(logits), None).values()
    assert torch.equal(torch.stack(whole), logits)


def test_the_mask_of_the_inputs_is_none_of_logits_of_examples(logits):
    (rows,) = CacheFormat().rows(TeacherBatch(logits[:, 0]), MASK).values()
    assert torch.equal(torch.stack(rows), logits[:, 0])


def test_a_row_is_sent_to_other_ranks_without_the_rest_of_its_batch():
    def rows(*shape):
        return CacheFormat().rows(TeacherBatch(torch.zeros(*shape)), None)["teacher_logits"]

    sizes = [len(pickle.dumps(rows(1, classes))) for classes in (3, 300)]
    assert len(pickle.dumps(rows(100, 3))) <= 100 * sizes[0]
    assert sizes[1] > sizes[0]


# --- the largest logits


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_largest_log_probabilities_and_their_tokens_are_kept(logits, temperature):
    kept = CacheFormat(top_logits=5, temperature=temperature)
    rows = kept.rows(TeacherBatch(logits), MASK)
    assert tuple(rows) == kept.columns == ("teacher_outputs",)
    for row, own, tokens in zip(unpacked_rows(rows), unpadded(logits), TOKENS, strict=True):
        assert (row["top_log_probs"].dtype, row["top_indices"].dtype) == (torch.float16, torch.int32)
        assert row["top_log_probs"].shape == (tokens, 5)
        expected = (own / temperature).log_softmax(-1)
        assert torch.equal(row["top_log_probs"], expected.sort(descending=True).values[:, :5].half())
        assert torch.equal(expected.gather(1, row["top_indices"].long()).half(), row["top_log_probs"])


@pytest.mark.parametrize("length", [4, 6])
def test_a_batch_of_them_is_padded_as_its_tokens_are(logits, length):
    kept = CacheFormat(top_logits=5)
    rows = kept.rows(TeacherBatch(logits), MASK)
    batch, is_token = batch_of(rows, length)
    top_k = kept.batch(batch).top_k
    for name, values in (("top_log_probs", top_k.log_probs), ("top_indices", top_k.indices)):
        assert torch.equal(values[is_token], torch.cat([row[name] for row in unpacked_rows(rows)]))
        assert not values[~is_token].any()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_what_they_leave_is_spread_evenly_where_all_logits_are_asked_for(logits, temperature):
    kept = CacheFormat(top_logits=5, temperature=temperature, classes=CLASSES)
    batch, is_token = batch_of(kept.rows(TeacherBatch(logits), MASK))
    found = (kept.batch(batch).logits[is_token] / temperature).softmax(-1)
    exact = (torch.cat(unpadded(logits)) / temperature).softmax(-1)
    top = exact.topk(5).indices
    torch.testing.assert_close(found.gather(-1, top), exact.gather(-1, top), rtol=5e-3, atol=1e-5)
    rest = found.scatter(-1, top, 0.0)
    torch.testing.assert_close(rest.max(-1).values * (CLASSES - 5), rest.sum(-1))
    assert rest.sum(-1).max() > 0.01, "the rest must weigh something for the comparison to mean anything"


def test_all_of_them_are_all_logits_but_for_a_constant(logits):
    kept = CacheFormat(top_logits=CLASSES, classes=CLASSES)
    batch, is_token = batch_of(kept.rows(TeacherBatch(logits), MASK))
    found = kept.batch(batch).logits[is_token]
    torch.testing.assert_close(found, torch.cat(unpadded(logits)).log_softmax(-1), rtol=1e-3, atol=1e-3)


# --- hidden states


def test_hidden_states_are_those_that_are_needed(logits, hidden_states):
    kept = CacheFormat(hidden_states=(True, False, False, True))
    rows = kept.rows(TeacherBatch(logits[:, 0], inner={"hidden_states": hidden_states}), MASK)
    assert tuple(rows) == kept.columns == ("teacher_logits", "teacher_outputs")
    for name, states in (("hidden_states.0", hidden_states[0]), ("hidden_states.3", hidden_states[3])):
        for row, own in zip(unpacked_rows(rows), unpadded(states), strict=True):
            assert set(row) == {"hidden_states.0", "hidden_states.3"}
            assert torch.equal(row[name], own.half())


def test_a_batch_of_hidden_states_is_as_the_teacher_gives_it(logits, hidden_states):
    kept = CacheFormat(hidden_states=(False, True, False, True))
    batch, is_token = batch_of(
        kept.rows(TeacherBatch(logits[:, 0], inner={"hidden_states": hidden_states}), MASK), length=6
    )
    outputs = kept.batch(batch)
    assert torch.equal(outputs.logits, logits[:, 0])
    first, second, third, fourth = outputs.inner["hidden_states"]
    assert first is third is None
    for found, states in ((second, hidden_states[1]), (fourth, hidden_states[3])):
        assert torch.equal(found[is_token], torch.cat(unpadded(states)).half())


# --- several teachers


@pytest.mark.parametrize("of_tokens", [False, True])
def test_logits_of_several_teachers_come_back_exactly(logits, of_tokens):
    given = TeacherBatch(logits, members=(2 * logits, -logits))
    if not of_tokens:
        given = TeacherBatch(logits[:, 0], members=(2 * logits[:, 0], -logits[:, 0]))
    kept = CacheFormat(shares=(1 / 3, 2 / 3))
    rows = kept.rows(given, MASK)
    assert tuple(rows) == kept.columns == ("teacher_logits", "teacher_outputs")
    batch, is_token = batch_of(rows, length=6)
    found = kept.batch(batch)
    for one, other in zip((found.logits, *found.members), (given.logits, *given.members), strict=True):
        expected = torch.cat(unpadded(other)) if of_tokens else other
        assert torch.equal(one[is_token] if of_tokens else one, expected)
    examples = Dataset.from_dict({"teacher_outputs": rows["teacher_outputs"]})
    assert teacher_weights_in(examples) == [1 / 3, 2 / 3]
    if not of_tokens:
        assert all(map(torch.equal, cached_members(examples), given.members))


def test_other_columns_hold_no_weights_of_teachers(logits, hidden_states):
    rows = CacheFormat((True,)).rows(TeacherBatch(logits[:, 0], inner={"hidden_states": hidden_states}), MASK)
    assert teacher_weights_in(Dataset.from_dict({"teacher_outputs": rows["teacher_outputs"]})) is None
    assert teacher_weights_in(Dataset.from_dict({"teacher_logits": [[0.0, 1.0]]})) is None


def test_feature_maps_are_kept_whole():
    maps = torch.randn(3, 2, 5, 5)
    kept = CacheFormat(hidden_states=(True,))
    rows = kept.rows(TeacherBatch(torch.randn(3, 4), inner={"hidden_states": (maps,)}), None)
    batch = ColumnCollator(lambda given: {}, None)(
        [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    )
    assert torch.equal(kept.batch(batch).inner["hidden_states"][0], maps.half())


def test_what_fp16_cannot_hold_becomes_its_greatest():
    states = torch.tensor([[1e6, -1e6, 1.0]])
    (row,) = unpacked_rows(
        CacheFormat((True,)).rows(TeacherBatch(torch.zeros(1, 2), inner={"hidden_states": (states,)}), None)
    )
    assert row["hidden_states.0"].tolist() == [65504.0, -65504.0, 1.0]
    logits = torch.tensor([[[0.0, -1e6]]])
    (row,) = unpacked_rows(CacheFormat(top_logits=2).rows(TeacherBatch(logits), None))
    assert row["top_log_probs"].tolist() == [[0.0, -65504.0]]


@pytest.mark.parametrize("format", [None, "numpy", "torch"])
def test_rows_that_end_in_zeros_are_read_whole_in_any_format(format):
    states = torch.tensor([[1.0, 0.0, 0.0]])
    rows = CacheFormat((True,)).rows(TeacherBatch(torch.zeros(1, 2), inner={"hidden_states": (states,)}), None)
    (row,) = Dataset.from_dict({"teacher_outputs": rows["teacher_outputs"]}).with_format(format)["teacher_outputs"]
    assert torch.equal(unpacked(row)["hidden_states.0"], states[0].half())


def test_what_changes_the_rows_changes_the_text():
    formats = [{}, {"hidden_states": (True, False)}, {"top_logits": 4}, {"temperature": 2.0}, {"shares": (0.5, 0.5)}]
    assert len({str(CacheFormat(**settings)) for settings in formats}) == 5
    assert str(CacheFormat(classes=9)) == str(CacheFormat())
