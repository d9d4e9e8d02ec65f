"""Losses and gradients of the probe, and steps that leave nothing behind."""

import copy

import pytest
import torch
from helpers.probe_points import bert_losses, stepped_adamw
from torch import nn
from torch.optim import SGD

from hf_kd_lambda.losses import functional as trained_losses
from hf_kd_lambda.studies.probe.steps import exact_losses, gradients_of, measure, restoring


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("labels", [1, 3])
def test_exact_losses_are_those_of_training(labels):
    logits, teacher = torch.randn(2, 6, labels)
    targets = torch.randn(6) if labels == 1 else torch.randint(labels, (6,))
    task = trained_losses.task_loss(logits, targets, 6)
    kd = (
        trained_losses.logit_mse_loss(logits, teacher, targets, 6)
        if labels == 1
        else trained_losses.soft_target_loss(logits, teacher, targets, 6, temperature=3.0)
    )
    torch.testing.assert_close(exact_losses(logits, teacher, targets, 3.0), torch.stack([task, kd]))
    assert exact_losses(logits.double(), teacher.double(), targets, 3.0).dtype == torch.double


@pytest.mark.parametrize("training", [True, False])
def test_losses_are_without_dropout_and_leave_the_mode_alone(training):
    model, losses = bert_losses()
    model.train(training)
    assert torch.equal(losses(), losses())
    assert model.training is training


def test_weights_state_and_settings_come_back_bit_for_bit():
    model, losses = bert_losses()
    optimizer = stepped_adamw(model, losses, weight_decay=0.1)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    gradients = gradients_of(losses, list(model.parameters()))
    changes = measure(losses, optimizer, gradients, torch.ones(2, 2), [0.1])
    assert torch.equal(changes[..., 0], changes[..., 1])
    assert changes.abs().min() > 0
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert optimizer.state_dict()["param_groups"] == state["param_groups"]
    for before, after in zip(state["state"].values(), optimizer.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_weights_come_back_after_an_error_too():
    weight = nn.Parameter(torch.ones(2))

    def fail():
        with restoring(SGD([weight])), torch.no_grad():
            weight.zero_()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(weight, torch.ones(2))


def test_parameters_without_a_gradient_are_left_out_and_one_without_the_other_is_zero():
    task, kd, unused = (nn.Parameter(torch.ones(2)) for _ in range(3))
    gradients = gradients_of(lambda: torch.stack([task.sum(), 2 * kd.sum()]), [task, unused, kd])
    assert [parameter is expected for parameter, expected in zip(gradients.parameters, (task, kd), strict=True)]
    assert [grad.tolist() for grad in gradients.task] == [[1, 1], [0, 0]]
    assert [grad.tolist() for grad in gradients.kd] == [[0, 0], [2, 2]]
