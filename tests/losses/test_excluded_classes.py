"""Losses of logits where a model excludes classes by logits of −∞."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_kd_lambda.losses import functional as losses
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.distributions import EXCLUDED, squared_distance_from_uniform

CLASSES, ITEMS, TOP = 6, 40, 3


def top_kl(student, teacher, labels, k=TOP):
    log_probs, indices = (teacher.float() / 2.0).log_softmax(-1).topk(min(k, teacher.shape[-1]), dim=-1)
    shaped = (values[None] for values in (student, log_probs, indices, labels))
    return losses.token_top_kl_loss(*shaped, 5, temperature=2.0, chunk_size=7)


def task(smoothing):
    return lambda student, _, labels: losses.task_loss(student, labels, 5, smoothing)


LOSSES = {
    "soft_targets": lambda s, t, y: losses.soft_target_loss(s, t, y, 5, 2.0),
    "reverse_kl": lambda s, t, y: losses.reverse_kl_loss(s, t, y, 5, 2.0),
    "jensen_shannon": lambda s, t, y: losses.jensen_shannon_loss(s, t, y, 5, 2.0, beta=0.3),
    "dkd": lambda s, t, y: losses.dkd_loss(s, t, y, 5, 2.0, alpha=1.0, beta=8.0),
    "logit_mse": lambda s, t, y: losses.logit_mse_loss(s, t, y, 5),
    "task": task(0.0),
    "task, smoothed": task(0.1),
    "top k": top_kl,
    "top k of all": lambda s, t, y: top_kl(s, t, y, CLASSES),
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def loss(request):
    return request.param


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (4 * torch.randn(ITEMS, CLASSES, generator=generator) for _ in range(2))
    labels = torch.randint(0, CLASSES, (ITEMS,), generator=generator)
    labels[torch.rand(ITEMS, generator=generator) < 0.2] = IGNORED
    masks = torch.rand(2, ITEMS, CLASSES, generator=generator) < torch.rand(1, ITEMS, 1, generator=generator)
    # A model excludes all classes but one at most, which need not be the label.
    masks.scatter_(-1, torch.randint(0, CLASSES, (2, ITEMS, 1), generator=generator), False)
    return student, teacher, labels, masks


def value_and_gradient(loss, student, teacher, labels):
    student = student.detach().requires_grad_()
    value = loss(student, teacher, labels)
    return value.detach(), torch.autograd.grad(value, student)[0]


def test_value_and_gradient_are_finite_whoever_excludes_whatever(loss):
    for seed in range(5):
        student, teacher, labels, (first, second) = batch(seed)
        nothing = torch.zeros_like(first)
        for who, (of_student, of_teacher) in {
            "student": (first, nothing),
            "teacher": (nothing, second),
            "each its own": (first, second),
            "both": (first, first),
        }.items():
            masked = student.masked_fill(of_student, -math.inf), teacher.masked_fill(of_teacher, -math.inf)
            value, gradient = value_and_gradient(loss, *masked, labels)
            assert value.isfinite(), (who, seed)
            assert gradient.isfinite().all(), (who, seed)
            assert gradient[of_student].eq(0).all(), f"an excluded logit cannot learn: {who}, {seed}"


def test_classes_that_both_exclude_do_not_exist(loss):
    student, teacher, labels = map(torch.cat, zip(*(batch(seed)[:3] for seed in range(3)), strict=True))
    excluded, kept = [1, 4], [0, 2, 3, 5]
    labels = torch.where(torch.isin(labels, torch.tensor(excluded)), 2, labels)
    renumbered = torch.where(labels.eq(IGNORED), IGNORED, torch.tensor([0, 9, 1, 2, 9, 3])[labels.clamp(min=0)])
    masked = (logits.index_fill(-1, torch.tensor(excluded), -math.inf) for logits in (student, teacher))
    value, gradient = value_and_gradient(loss, *masked, labels)
    expected, expected_gradient = value_and_gradient(loss, student[:, kept], teacher[:, kept], renumbered)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[:, kept], expected_gradient)
    assert gradient[:, excluded].eq(0).all()


def test_a_row_of_nothing_but_excluded_classes_is_not_hidden_unless_it_is_ignored(loss):
    student, teacher, labels, _ = batch(0)
    labels[0], labels[1] = 2, IGNORED
    broken, ignored = student.clone(), student.clone()
    broken[0], ignored[1] = -math.inf, -math.inf
    is_distance = loss is LOSSES["logit_mse"]  # which needs no distribution
    assert loss(broken, teacher, labels).isfinite() == is_distance
    value, gradient = value_and_gradient(loss, ignored, teacher, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_other_values_that_are_not_finite_are_not_hidden(loss):
    student, teacher, labels, _ = batch(0)
    labels[0] = 2
    for wrong in (math.nan, math.inf):
        student[0, 2] = wrong
        assert not loss(student, teacher, labels).isfinite(), wrong


def test_an_infinite_target_of_a_regression_is_no_excluded_class():
    value = losses.logit_mse_loss(torch.zeros(2, 1), torch.tensor([[-math.inf], [0.0]]), torch.zeros(2), 2)
    assert value.isinf()


def test_a_class_that_the_student_alone_excludes_costs_the_teachers_mass_there():
    student = torch.tensor([[0.0, 0.0, -math.inf]])
    teacher = torch.tensor([[0.5, 0.2, 0.3]]).log()
    value, gradient = value_and_gradient(
        lambda s, t, y: losses.soft_target_loss(s, t, y, 1, 1.0), student, teacher, torch.tensor([0])
    )
    known = 0.5 * math.log(0.5 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert value.item() == pytest.approx(known + 0.3 * (math.log(0.3) - EXCLUDED), rel=1e-5)
    torch.testing.assert_close(gradient, torch.tensor([[0.7 * 0.5 - 0.5, 0.7 * 0.5 - 0.2, 0.0]]))


def test_a_class_that_the_teacher_alone_excludes_is_pushed_away_by_the_reverse_divergence():
    teacher = torch.tensor([[0.0, -math.inf]])
    value, gradient = value_and_gradient(
        lambda s, t, y: losses.reverse_kl_loss(s, t, y, 1, 1.0), torch.zeros(1, 2), teacher, torch.tensor([0])
    )
    assert value.item() == pytest.approx(math.log(0.5) - 0.5 * EXCLUDED, rel=1e-5)
    assert gradient[0, 0] < 0 < gradient[0, 1]


def test_label_smoothing_spreads_over_the_classes_that_are_there():
    logits, labels = torch.tensor([[1.0, -math.inf, 0.0, 2.0]]), torch.tensor([3])
    found = losses.task_loss(logits, labels, 1, label_smoothing=0.3)
    expected = F.cross_entropy(logits[:, [0, 2, 3]], torch.tensor([2]), label_smoothing=0.3)
    torch.testing.assert_close(found, expected)


def test_a_label_that_the_student_excludes_is_dear_and_has_no_gradient():
    logits = torch.tensor([[0.0, 1.0, -math.inf], [0.0, 1.0, 2.0]])
    value, gradient = value_and_gradient(task(0.0), logits, None, torch.tensor([2, 2]))
    expected, known = value_and_gradient(task(0.0), logits[1:], None, torch.tensor([2]))
    torch.testing.assert_close(value, expected - EXCLUDED / 5)
    torch.testing.assert_close(gradient, torch.cat([torch.zeros(1, 3), known]))


@pytest.mark.parametrize(("possible", "distance"), [([0.0, 0.0], 0.0), ([0.0, math.log(3)], 0.25), ([0.0], 1.0)])
def test_the_distance_from_uniform_is_that_of_the_classes_that_are_there(possible, distance):
    logits = torch.tensor([*possible, -math.inf, -math.inf])
    assert squared_distance_from_uniform(logits).item() == pytest.approx(distance, abs=1e-6)
