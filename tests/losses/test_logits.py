"""Losses of logits against values computed by hand, torch's distributions in fp64, and their limits."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from hf_kd_lambda.losses.functional import (
    IGNORED,
    dkd_loss,
    jensen_shannon_loss,
    logit_mse_loss,
    reverse_kl_loss,
    soft_target_loss,
)

LOGITS = torch.tensor([[math.log(2), 0.0], [0.0, math.log(3)]])  # probabilities (2/3, 1/3) and (1/4, 3/4)
UNIFORM = torch.zeros_like(LOGITS)
DIVERGENCES = {
    "soft_target": soft_target_loss,
    "reverse_kl": reverse_kl_loss,
    "jensen_shannon": lambda *arguments, **named: jensen_shannon_loss(*arguments, **named, beta=0.3),
    "dkd": lambda *arguments, **named: dkd_loss(*arguments, **named, alpha=0.5, beta=3.0),
}


@pytest.fixture(params=DIVERGENCES.values(), ids=DIVERGENCES.keys())
def divergence(request):
    return request.param


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 4, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(0, 4, (6,), generator=generator)


def softened(*logits, temperature):
    return [Categorical(logits=tensor.double() / temperature) for tensor in logits]


def test_soft_target_loss_by_hand():
    loss = soft_target_loss(LOGITS, UNIFORM, torch.tensor([0, 1]), num_items=2, temperature=1.0)
    divergences = [math.log(0.5 / p) / 2 + math.log(0.5 / (1 - p)) / 2 for p in (2 / 3, 1 / 4)]
    assert loss.item() == pytest.approx(sum(divergences) / 2, rel=1e-6)


def test_reverse_kl_loss_by_hand():
    loss = reverse_kl_loss(LOGITS, UNIFORM, torch.tensor([0, 1]), num_items=2, temperature=1.0)
    divergences = [p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)) for p in (2 / 3, 1 / 4)]
    assert loss.item() == pytest.approx(sum(divergences) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["soft_target", "jensen_shannon", "dkd"])
def test_a_teacher_may_rule_a_class_out(batch, name):
    student, teacher, labels = batch
    ruled_out = teacher.clone()
    ruled_out[:, 2] = -math.inf
    found, near = (
        DIVERGENCES[name](student, excluded, labels % 2, num_items=6, temperature=2.0)
        for excluded in (ruled_out, ruled_out.nan_to_num(neginf=-200.0))
    )
    assert found.item() == pytest.approx(near.item(), rel=1e-6)


def test_kullback_leibler_losses_are_those_of_torchs_distributions(batch):
    student, teacher, labels = batch
    p_s, p_t = softened(student, teacher, temperature=2.0)
    for loss, expected in (
        (soft_target_loss, kl_divergence(p_t, p_s)),
        (reverse_kl_loss, kl_divergence(p_s, p_t)),
    ):
        assert loss(student, teacher, labels, 5, 2.0).item() == pytest.approx(4 * expected.sum().item() / 5, rel=1e-5)


def test_jensen_shannon_loss_is_the_divergence_from_the_mixture(batch):
    student, teacher, labels = batch
    p_s, p_t = softened(student, teacher, temperature=2.0)
    mixture = Categorical(probs=0.3 * p_t.probs + 0.7 * p_s.probs)
    expected = 0.3 * kl_divergence(p_t, mixture) + 0.7 * kl_divergence(p_s, mixture)
    loss = jensen_shannon_loss(student, teacher, labels, 5, 2.0, beta=0.3)
    assert loss.item() == pytest.approx(4 * expected.sum().item() / 5, rel=1e-5)


def test_jensen_shannon_loss_tends_to_either_kullback_leibler_loss(batch):
    student, teacher, labels = batch
    for loss, beta in ((soft_target_loss, 1e-3), (reverse_kl_loss, 1 - 1e-3)):
        limit = loss(student, teacher, labels, 6, 2.0).item()
        value = jensen_shannon_loss(student, teacher, labels, 6, 2.0, beta=beta).item()
        assert value / 1e-3 == pytest.approx(limit, rel=0.01)


def test_distributions_that_share_nothing_are_the_entropy_of_beta_apart():
    student, teacher = torch.tensor([[90.0, -90.0]]), torch.tensor([[-90.0, 90.0]])
    loss = jensen_shannon_loss(student, teacher, torch.tensor([0]), 1, 1.0, beta=0.3)
    assert loss.item() == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7), rel=1e-6)


def test_dkd_loss_is_that_of_the_paper(batch):
    student, teacher, labels = batch
    labels[2] = IGNORED
    expected = 0.0
    for row_s, row_t, label in zip(*softened_rows(student, teacher, temperature=2.0), labels.tolist(), strict=True):
        if label == IGNORED:
            continue
        target = sum(
            t * math.log(t / s) for s, t in ((row_s[label], row_t[label]), (1 - row_s[label], 1 - row_t[label]))
        )
        others = [(s / (1 - row_s[label]), t / (1 - row_t[label])) for s, t in zip(row_s, row_t, strict=True)]
        non_target = sum(t * math.log(t / s) for index, (s, t) in enumerate(others) if index != label)
        expected += 4 * (0.5 * target + 3.0 * non_target)
    loss = dkd_loss(student, teacher, labels, 5, 2.0, alpha=0.5, beta=3.0)
    assert loss.item() == pytest.approx(expected / 5, rel=1e-5)


def softened_rows(*logits, temperature):
    return [distribution.probs.tolist() for distribution in softened(*logits, temperature=temperature)]


def test_dkd_loss_takes_the_soft_target_loss_apart(batch):
    for student, teacher, label in zip(*(tensor.split(1) for tensor in batch), strict=True):
        sureness = (teacher / 2).softmax(-1)[0, label].item()
        apart = dkd_loss(student, teacher, label, 1, 2.0, alpha=1.0, beta=1 - sureness)
        torch.testing.assert_close(apart, soft_target_loss(student, teacher, label, 1, 2.0))


def test_two_classes_have_only_a_target_class_loss():
    labels = torch.tensor([0, 1])
    loss = dkd_loss(LOGITS, UNIFORM, labels, 2, 1.0, alpha=1.0, beta=100.0)
    torch.testing.assert_close(loss, soft_target_loss(LOGITS, UNIFORM, labels, 2, 1.0))


def test_a_teacher_that_is_sure_still_tells_of_the_other_classes():
    student, teacher = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True), torch.tensor([[500.0, 1.0, 0.0]])
    dkd_loss(student, teacher, torch.tensor([0]), 1, 1.0, alpha=0.0, beta=1.0).backward()
    sure = torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(student.grad, torch.stack([torch.tensor(0.0), 0.5 - sure, sure - 0.5])[None])


def test_temperature_softens_both_distributions_and_squares_into_the_loss(divergence, batch):
    student, teacher, labels = batch
    soft = divergence(3 * student, 3 * teacher, labels, 6, temperature=3.0)
    torch.testing.assert_close(soft, 9 * divergence(student, teacher, labels, 6, temperature=1.0))


def test_gradient_keeps_its_size_when_the_temperature_changes(divergence, batch):
    student, teacher, labels = batch
    student.requires_grad_()

    def size(temperature):
        return torch.autograd.grad(divergence(student, teacher, labels, 6, temperature), student)[0].norm().item()

    assert size(200.0) == pytest.approx(size(20.0), rel=0.1)


def test_a_constant_added_to_the_logits_changes_nothing(divergence, batch):
    student, _, labels = batch
    assert divergence(student, student + 5, labels, 6, temperature=2.0).item() == pytest.approx(0, abs=1e-6)


def test_positions_count_like_examples(divergence, batch):
    student, teacher, labels = batch
    shaped = student.view(2, 3, 4), teacher.view(2, 3, 4), labels.view(2, 3)
    torch.testing.assert_close(divergence(*shaped, 6, temperature=2.0), divergence(*batch, 6, temperature=2.0))


def test_soft_target_gradient_at_high_temperature_is_that_of_matching_centred_logits(batch):
    student, teacher, labels = batch
    student.requires_grad_()
    soft_target_loss(student, teacher, labels, num_items=6, temperature=1000.0).backward()
    difference = (student - teacher).detach()
    limit = (difference - difference.mean(-1, keepdim=True)) / (6 * 4)
    torch.testing.assert_close(student.grad, limit, rtol=0.01, atol=1e-4)


def test_logit_mse_loss_by_hand():
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [1.0]])
    assert logit_mse_loss(student, teacher, torch.tensor([0.0, 0.0]), num_items=2).item() == (0.25 + 4) / 2


def test_logit_mse_loss_of_several_classes_is_their_sum():
    student = torch.tensor([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]])
    teacher = torch.tensor([[0.0, 4.0, 0.0], [3.0, 3.0, 1.0]])
    assert logit_mse_loss(student, teacher, torch.tensor([2, 0]), num_items=4).item() == (1 + 4 + 9) / 4


def test_logit_mse_loss_of_centred_logits_is_the_limit_of_soft_targets(batch):
    *logits, labels = batch
    student, teacher = (tensor - tensor.mean(-1, keepdim=True) for tensor in logits)
    limit = logit_mse_loss(student, teacher, labels, 6) / (2 * 4)
    torch.testing.assert_close(soft_target_loss(student, teacher, labels, 6, 300.0), limit, rtol=0.02, atol=0)
