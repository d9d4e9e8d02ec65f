"""Predicted updates against those of torch's optimizers."""

import pytest
import torch
from helpers.probe_points import bert_losses, stepped_adamw
from torch import nn
from torch.optim import SGD, AdamW

from hf_kd_lambda.gradients.adam_metric import AdamMetric
from hf_kd_lambda.studies.probe.steps import gradients_of
from hf_kd_lambda.studies.probe.updates import (
    adam_momentum,
    adam_tangent,
    gram_of,
    metric_before,
    metric_of_step,
    sgd_update,
)

WEIGHTS = (0.3, 0.7)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def step_of(optimizer, gradients, weights):
    """The optimizer's own update, −Δθ/η."""
    before = [parameter.detach().clone() for parameter in gradients.parameters]
    for parameter, grad in zip(gradients.parameters, gradients.combined(*weights), strict=True):
        parameter.grad = grad
    for group in optimizer.param_groups:
        group.update(lr=0.1, weight_decay=0.0)
    optimizer.step()
    return [(was - now.detach()) / 0.1 for was, now in zip(before, gradients.parameters, strict=True)]


def at(update, weights):
    parts = zip(*update, strict=True)
    return [constant + weights[0] * task + weights[1] * kd for constant, task, kd in parts]


def test_the_update_of_sgd():
    model, losses = bert_losses()
    gradients = gradients_of(losses, list(model.parameters()))
    taken = step_of(SGD(model.parameters()), gradients, WEIGHTS)
    torch.testing.assert_close(taken, at(sgd_update(gradients), WEIGHTS), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("fused", [True, False])
def test_the_update_of_adamw_at_the_weights_of_the_step(fused):
    model, losses = bert_losses()
    optimizer = stepped_adamw(model, losses, eps=1e-6, fused=fused)
    gradients = gradients_of(losses, list(model.parameters()))
    metric = metric_of_step(optimizer, gradients, WEIGHTS)
    predicted = at(adam_momentum(optimizer, gradients).times(metric), WEIGHTS)
    tangent = at(adam_tangent(optimizer, gradients, WEIGHTS), WEIGHTS)
    taken = step_of(optimizer, gradients, WEIGHTS)
    torch.testing.assert_close(taken, predicted, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(taken, tangent, atol=1e-10, rtol=1e-8)


def test_the_tangent_is_the_derivative_of_the_update_by_both_weights():
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.double))
    slopes = torch.tensor([[1.0, 2.0, 0.0], [-2.0, 0.5, 0.0]], dtype=torch.double)
    gradients = gradients_of(lambda: slopes @ weight, [weight])

    def update(task_weight, kd_weight):
        optimizer = AdamW([weight], betas=(0.8, 0.9), eps=1e-3)
        for grad in ([1.0, 0.1, 0.0], [-1.0, 0.2, 0.0]):
            weight.grad = torch.tensor(grad, dtype=torch.double)
            optimizer.step()
        return optimizer, lambda: step_of(optimizer, gradients, (task_weight, kd_weight))[0]

    step = 1e-5
    optimizer, _ = update(*WEIGHTS)
    tangent = adam_tangent(optimizer, gradients, WEIGHTS)
    for part, offset in ((tangent.task[0], (step, 0)), (tangent.kd[0], (0, step))):
        up, down = (update(WEIGHTS[0] + s * offset[0], WEIGHTS[1] + s * offset[1])[1]() for s in (1, -1))
        torch.testing.assert_close(part, (up - down) / (2 * step), atol=1e-6, rtol=1e-6)


def test_the_tangent_is_flat_where_nothing_was_known_before():
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.double))
    optimizer = AdamW([weight], eps=1e-12)
    for grad in [[1.0, 0.0], [-1.0, 0.0]] * 20:
        weight.grad = torch.tensor(grad, dtype=torch.double)
        optimizer.step()
    gradients = gradients_of(lambda: torch.stack([weight.sum(), 2 * weight.sum()]), [weight])
    tangent = adam_tangent(optimizer, gradients, WEIGHTS)
    assert tangent.task[0][0] > 0.01
    assert tangent.task[0][1].abs() < 1e-9
    assert metric_before(optimizer, gradients)[0][1] == pytest.approx(1e12)
    assert metric_of_step(optimizer, gradients, WEIGHTS)[0][1] < 100


def test_the_metric_before_a_step_is_that_of_the_step_before_it():
    model, losses = bert_losses()
    optimizer = stepped_adamw(model, losses)
    gradients = gradients_of(losses, list(model.parameters()))
    expected = metric_of_step(optimizer, gradients, WEIGHTS)
    step_of(optimizer, gradients, WEIGHTS)
    torch.testing.assert_close(metric_before(optimizer, gradients), expected)


def test_the_metric_of_training_is_the_one_that_is_probed():
    model, losses = bert_losses()
    optimizer = stepped_adamw(model, losses)
    gradients = gradients_of(losses, list(model.parameters()))
    trained, fp32 = AdamMetric(optimizer), {"rtol": 1e-4, "atol": 1e-4}
    before = [trained(parameter) for parameter in gradients.parameters]
    torch.testing.assert_close([metric.double() for metric in before], metric_before(optimizer, gradients), **fp32)
    pairs = zip(gradients.parameters, gradients.combined(*WEIGHTS), strict=True)
    of_step = [trained(parameter, grad).double() for parameter, grad in pairs]
    torch.testing.assert_close(of_step, metric_of_step(optimizer, gradients, WEIGHTS), **fp32)


def test_products_are_dot_products_and_hold_the_gram_matrix():
    task, kd = (nn.Parameter(torch.ones(2, dtype=torch.double)) for _ in range(2))
    gradients = gradients_of(lambda: torch.stack([task.sum() + kd[0], 3 * kd[0]]), [task, kd])
    products = sgd_update(gradients).products(gradients)
    assert products.tolist() == [[0, 3, 3], [0, 3, 9]]
    assert [entry.item() for entry in gram_of(products)] == [3, 9, 3]
    doubled = sgd_update(gradients).times([torch.full((2,), 2.0), torch.ones(2)])
    assert doubled.products(gradients).tolist() == [[0, 5, 3], [0, 3, 9]]
