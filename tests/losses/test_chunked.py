"""Token losses against the loss of all tokens at once, and the memory that chunks are for."""

import math
from itertools import pairwise

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_kd_lambda.losses.base import LossInputs, TeacherBatch
from hf_kd_lambda.losses.functional import (
    IGNORED,
    dkd_loss,
    jensen_shannon_loss,
    logit_mse_loss,
    reverse_kl_loss,
    soft_target_loss,
    sum_over_chunks,
    task_loss,
    token_top_kl_loss,
)
from hf_kd_lambda.losses.functional.chunked import CHUNK_LOGITS, chunk_positions
from hf_kd_lambda.losses.functional.labels import next_labels
from hf_kd_lambda.losses.registry import make_kd_losses
from hf_kd_lambda.teacher.cache_format import CacheFormat
from hf_kd_lambda.teacher.collator import unpacked

VOCABULARY = 11
LABELS = torch.tensor([[5, IGNORED, 3, 0], [IGNORED, IGNORED, 9, IGNORED]])


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(2, 4, VOCABULARY, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


def top(teacher, k, temperature=1.0):
    log_probs, indices = (teacher / temperature).log_softmax(-1).topk(k, dim=-1)
    return log_probs, indices.int()


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_chunks_change_neither_loss_nor_gradient(logits, chunk_size):
    student, teacher = logits
    cached = top(teacher, 3)
    whole, loss = (token_top_kl_loss(student, *cached, LABELS, 6, 2.0, size) for size in (8, chunk_size))
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(whole, student))


def test_a_retained_graph_can_be_differentiated_again(logits):
    student, teacher = logits
    loss = token_top_kl_loss(student, *top(teacher, 3), LABELS, 6, 2.0, chunk_size=3)
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, student)
    assert first.ne(0).any()
    torch.testing.assert_close(second, 3 * first)


class LargestAlive(TorchDispatchMode):
    """Counts the numbers in fp32 tensors that are as large as a chunk's logits and alive at the same time."""

    def __init__(self, smallest):
        super().__init__()
        self.smallest, self.alive, self.peak = smallest, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32 and result.numel() >= self.smallest:
                reference = StorageWeakRef(result.untyped_storage())
                self.alive[reference.cdata] = (reference, result.untyped_storage().nbytes() // 4)
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return results


def test_probabilities_exist_for_one_chunk_at_a_time_also_in_backward():
    length, vocabulary, chunk_size = 40, 200, 4
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, length, vocabulary, generator=generator).bfloat16()
    labels = torch.randint(vocabulary, (2, length), generator=generator)
    log_probs, indices = top(teacher.float(), 3)

    def peak(chunk_size):
        leaf = student.clone().requires_grad_()
        with LargestAlive(4 * vocabulary) as largest:
            loss = token_top_kl_loss(leaf, log_probs.half(), indices, labels, 80, 1.0, chunk_size)
            for retain in (True, False):
                torch.autograd.grad(loss, leaf, retain_graph=retain)
        return largest.peak

    whole = 2 * length * vocabulary
    assert peak(2 * length) >= 4 * whole, "the measure must see probabilities"
    assert peak(chunk_size) <= 10 * chunk_size * vocabulary


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_of_top_classes_and_tail_by_hand(temperature):
    student = temperature * torch.tensor([[[0.4, 0.3, 0.2, 0.1]]]).log()
    teacher = temperature * torch.tensor([[[0.1, 0.6, 0.1, 0.2]]]).log() + 3
    loss = token_top_kl_loss(student, *top(teacher, 2, temperature), torch.tensor([[0]]), 1, temperature)
    expected = 0.6 * math.log(0.6 / 0.3) + 0.2 * math.log(0.2 / 0.1) + 0.2 * math.log(0.2 / 0.6)
    assert loss.item() == pytest.approx(temperature**2 * expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_of_top_classes_and_tail_is_a_lower_bound_that_rises_with_their_number(temperature):
    generator = torch.Generator().manual_seed(1)
    for scale in (0.5, 2.0, 8.0):
        student, teacher = (scale * torch.randn(2, 4, VOCABULARY, generator=generator) for _ in range(2))
        full = soft_target_loss(student, teacher, LABELS, 4, temperature).item()
        bounds = [
            token_top_kl_loss(student, *top(teacher, k, temperature), LABELS, 4, temperature).item()
            for k in range(1, VOCABULARY + 1)
        ]
        assert 0 <= bounds[0] < 0.99 * full
        assert all(lower <= upper * (1 + 1e-5) for lower, upper in pairwise(bounds))
        assert bounds[-1] == pytest.approx(full, rel=1e-5)


def test_the_tail_is_free_where_its_mass_and_the_top_classes_are_right(logits):
    _, teacher = logits
    log_probs, indices = top(teacher, 3)
    student = torch.full_like(teacher, 0.0).scatter(-1, indices.long(), float("-inf"))
    tail_mass = (1 - log_probs.exp().sum(-1, keepdim=True)).log()
    student = (student.log_softmax(-1) + tail_mass).scatter(-1, indices.long(), log_probs)
    loss = token_top_kl_loss(student, log_probs, indices, LABELS, 4, 1.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert soft_target_loss(student, teacher, LABELS, 4, 1.0).item() > 0.01


def test_rows_of_the_cache_are_what_the_loss_takes(logits):
    student, teacher = logits
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    rows = [unpacked(row) for row in CacheFormat(top_logits=3).rows(TeacherBatch(teacher), mask)["teacher_outputs"]]
    padded = [
        torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=padding)
        for name, padding in (("top_log_probs", float("nan")), ("top_indices", -1))
    ]
    assert padded[1].dtype == torch.int32
    loss = token_top_kl_loss(student, *padded, LABELS, 4, 1.0)
    exact = token_top_kl_loss(student, *top(teacher, 3), LABELS, 4, 1.0)
    torch.testing.assert_close(loss, exact, rtol=1e-3, atol=1e-3)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@pytest.mark.parametrize("rounding", [-0.01, 0.01])
def test_rounding_of_the_top_classes_blurs_the_tail_alone(logits, rounding):
    student, teacher = logits
    for k, tolerances in ((2, {"rtol": 0.05, "atol": 0.02}), (VOCABULARY, {})):
        log_probs, indices = top(20 * teacher, k)
        loss, exact = (
            token_top_kl_loss(student, known, indices, LABELS, 4, 1.0) for known in (log_probs + rounding, log_probs)
        )
        torch.testing.assert_close(loss, exact, **tolerances)
        assert torch.autograd.grad(loss, student)[0].isfinite().all()


ANY_LOSS = {
    "soft_targets": lambda student, teacher, labels: soft_target_loss(student, teacher, labels, 6, 2.0),
    "reverse_kl": lambda student, teacher, labels: reverse_kl_loss(student, teacher, labels, 6, 2.0),
    "jensen_shannon": lambda student, teacher, labels: jensen_shannon_loss(student, teacher, labels, 6, 2.0, 0.3),
    "dkd": lambda student, teacher, labels: dkd_loss(student, teacher, labels, 6, 2.0, 1.0, 8.0),
    "logit_mse": lambda student, teacher, labels: logit_mse_loss(student, teacher, labels, 6),
    "task": lambda student, _, labels: task_loss(student, labels, 6),
}


@pytest.mark.parametrize("name", ANY_LOSS)
@pytest.mark.parametrize("chunk_size", [1, 3, None])
def test_any_loss_of_items_is_the_sum_of_its_chunks(logits, name, chunk_size):
    (student, teacher), loss = logits, ANY_LOSS[name]
    expected, found = loss(student, teacher, LABELS), sum_over_chunks(loss, (student, teacher), LABELS, chunk_size)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student), torch.autograd.grad(expected, student))


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon"])
def test_so_are_the_kd_losses_of_tokens_and_their_memory(logits, monkeypatch, name):
    student, teacher = logits
    kd_loss = make_kd_losses({name: {"beta": 0.3} if name == "jensen_shannon" else 1.0})[name]
    given = LossInputs({"logits": student}, TeacherBatch(teacher), None, LABELS, 6, 2.0)
    torch.testing.assert_close(kd_loss(given), ANY_LOSS[name](student, teacher, LABELS))

    length, vocabulary = 40, 200
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, length, vocabulary, generator=generator).bfloat16()
    labels = torch.randint(vocabulary, (2, length), generator=generator)
    peaks = []
    for positions in (4, 2 * length):
        monkeypatch.setattr("hf_kd_lambda.losses.functional.chunked.CHUNK_LOGITS", positions * vocabulary)
        leaf = student.clone().requires_grad_()
        with LargestAlive(4 * vocabulary) as largest:
            loss = kd_loss(LossInputs({"logits": leaf}, TeacherBatch(teacher), None, labels, 80, 1.0))
            torch.autograd.grad(loss, leaf)
        peaks.append(largest.peak)
    assert peaks[1] >= 4 * 2 * length * vocabulary, "the measure must see probabilities"
    assert peaks[0] <= 15 * 4 * vocabulary


def test_the_next_labels():
    assert next_labels(LABELS).tolist() == [[IGNORED, 3, 0, IGNORED], [IGNORED, 9, IGNORED, IGNORED]]


def test_a_chunk_has_one_position_at_least():
    assert chunk_positions(CHUNK_LOGITS + 1) == 1
