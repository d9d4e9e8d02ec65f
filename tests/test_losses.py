"""Task loss and distillation losses against values computed by hand and against torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_kd_lambda.losses import IGNORED, count_items, logit_mse_loss, soft_target_loss, task_loss

LOGITS = torch.tensor([[math.log(2), 0.0], [0.0, math.log(3)]])  # probabilities (2/3, 1/3) and (1/4, 3/4)


def random_batch(items=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(items, classes, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(0, classes, (items,), generator=generator)


def test_ignored_labels_are_not_counted():
    assert count_items(torch.tensor([[0, IGNORED], [2, 1]])).item() == 3


def test_task_loss_by_hand():
    loss = task_loss(LOGITS, torch.tensor([0, 0]), num_items=4)
    assert loss.item() == pytest.approx((math.log(3 / 2) + math.log(4)) / 4, rel=1e-6)


def test_soft_target_loss_by_hand():
    teacher = torch.zeros_like(LOGITS)  # probabilities ½, ½ at any temperature
    loss = soft_target_loss(LOGITS, teacher, torch.tensor([0, 1]), num_items=2, temperature=1.0)
    divergences = [math.log(0.5 / p) / 2 + math.log(0.5 / (1 - p)) / 2 for p in (2 / 3, 1 / 4)]
    assert loss.item() == pytest.approx(sum(divergences) / 2, rel=1e-6)


def test_temperature_softens_both_distributions_and_squares_into_the_loss():
    labels = torch.tensor([0, 1])
    soft = soft_target_loss(3 * LOGITS, torch.zeros_like(LOGITS), labels, 2, temperature=3.0)
    assert soft.item() == pytest.approx(
        9 * soft_target_loss(LOGITS, torch.zeros_like(LOGITS), labels, 2, temperature=1.0).item(), rel=1e-6
    )


def test_soft_target_loss_vanishes_where_student_equals_teacher_up_to_a_constant():
    student, _, labels = random_batch()
    assert soft_target_loss(student, student + 5, labels, 6, temperature=2.0).item() == pytest.approx(0, abs=1e-6)


def test_soft_target_gradient_at_high_temperature_is_that_of_matching_centred_logits():
    student, teacher, labels = random_batch()
    student.requires_grad_()
    soft_target_loss(student, teacher, labels, num_items=6, temperature=1000.0).backward()
    difference = (student - teacher).detach()
    limit = (difference - difference.mean(-1, keepdim=True)) / (6 * 4)
    torch.testing.assert_close(student.grad, limit, rtol=0.01, atol=1e-4)


def test_soft_target_gradient_keeps_its_size_when_the_temperature_changes():
    student, teacher, labels = random_batch()
    student.requires_grad_()

    def size(temperature):
        loss = soft_target_loss(student, teacher, labels, 6, temperature)
        return torch.autograd.grad(loss, student)[0].norm().item()

    assert size(200.0) == pytest.approx(size(20.0), rel=0.1)


def test_logit_mse_loss_by_hand():
    student, teacher = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.5], [1.0]])
    assert logit_mse_loss(student, teacher, torch.tensor([0.0, 0.0]), num_items=2).item() == (0.25 + 4) / 2


def test_one_output_means_squared_error():
    assert task_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]), num_items=2).item() == (1 + 4) / 2


def test_integer_labels_of_a_regression_are_taken_as_numbers():
    assert task_loss(torch.tensor([[1.5]]), torch.tensor([1]), num_items=1).item() == 0.25


@pytest.mark.parametrize("loss", ["task", "soft target"])
def test_ignored_items_have_neither_loss_nor_gradient(loss):
    student, teacher, labels = random_batch()
    student.requires_grad_()
    labels[[1, 4]] = IGNORED
    kept = labels != IGNORED

    def value(student, teacher, labels):
        if loss == "task":
            return task_loss(student, labels, 4)
        return soft_target_loss(student, teacher, labels, 4, temperature=2.0)

    masked = value(student, teacher, labels)
    torch.testing.assert_close(masked, value(student[kept], teacher[kept], labels[kept]))
    (gradient,) = torch.autograd.grad(masked, student)
    assert gradient[~kept].eq(0).all()
    assert gradient[kept].ne(0).all()


def test_an_ignored_item_cannot_make_the_loss_infinite():
    student, teacher, labels = random_batch()
    student[0], labels[0] = float("nan"), IGNORED
    assert soft_target_loss(student, teacher, labels, 5, temperature=2.0).isfinite()


def test_positions_count_like_examples():
    student, teacher, labels = random_batch()
    shaped = student.view(2, 3, 4), teacher.view(2, 3, 4), labels.view(2, 3)
    torch.testing.assert_close(task_loss(shaped[0], shaped[2], 6), task_loss(student, labels, 6))
    torch.testing.assert_close(
        soft_target_loss(*shaped, num_items=6, temperature=2.0),
        soft_target_loss(student, teacher, labels, num_items=6, temperature=2.0),
    )


@pytest.mark.parametrize("num_items", [6, torch.tensor(6)], ids=["int", "tensor"])
def test_micro_batches_add_up_to_the_whole_batch(num_items):
    student, teacher, labels = random_batch()
    labels[2] = IGNORED
    parts = list(zip(student.split([1, 2, 3]), teacher.split([1, 2, 3]), labels.split([1, 2, 3]), strict=True))
    whole = task_loss(student, labels, num_items)
    torch.testing.assert_close(sum(task_loss(s, y, num_items) for s, _, y in parts), whole)
    whole = soft_target_loss(student, teacher, labels, num_items, temperature=2.0)
    torch.testing.assert_close(sum(soft_target_loss(*part, num_items, temperature=2.0) for part in parts), whole)


def test_label_smoothing_is_torchs():
    student, _, labels = random_batch()
    labels[3] = IGNORED
    expected = F.cross_entropy(student, labels, label_smoothing=0.2, reduction="sum") / 5
    torch.testing.assert_close(task_loss(student, labels, 5, label_smoothing=0.2), expected)
    assert not torch.isclose(expected, task_loss(student, labels, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_logits_are_computed_in_fp32(dtype):
    student, teacher, labels = random_batch()
    student, teacher = student.to(dtype), teacher.to(dtype)
    losses = {
        task_loss(student, labels, 6): task_loss(student.float(), labels, 6),
        task_loss(student[:, :1], labels, 6): task_loss(student[:, :1].float(), labels, 6),
        soft_target_loss(student, teacher, labels, 6, 2.0): soft_target_loss(
            student.float(), teacher.float(), labels, 6, 2.0
        ),
        logit_mse_loss(student[:, :1], teacher[:, :1], labels, 6): logit_mse_loss(
            student[:, :1].float(), teacher[:, :1].float(), labels, 6
        ),
    }
    for half, full in losses.items():
        assert half.dtype == torch.float32
        assert half.item() == full.item()
