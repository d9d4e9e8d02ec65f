"""Adam's metric against its definition, and against the steps that torch's optimizers take."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from helpers.two_heads import TwoHeads, accumulate, expected_gradients, two_losses
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from hf_kd_lambda.gradients.adam_metric import AdamMetric, check_adam
from hf_kd_lambda.gradients.pair import GradientPair

BETA, EPS = 0.9, 1e-3
KINDS = {
    "adamw": (AdamW, {"foreach": False}),
    "adamw-foreach": (AdamW, {"foreach": True}),
    "adamw-fused": (AdamW, {"fused": True}),
    "adam": (Adam, {"weight_decay": 0.1}),
}


def make_optimizer(kind, parameters, **settings):
    optimizer_class, implementation = KINDS[kind]
    return optimizer_class(parameters, **{"lr": 0.01, "betas": (0.5, BETA), "eps": EPS, **implementation, **settings})


def step_along(optimizer, parameter, grads):
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    parameter.grad = None


@pytest.fixture
def grads():
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_is_that_of_the_definition(kind, steps, grads):
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = make_optimizer(kind, [parameter], weight_decay=0.0)
    step_along(optimizer, parameter, grads[:steps])
    moment = torch.zeros(3, 4, dtype=torch.float64)
    for grad in grads[:steps].double():
        moment = BETA * moment + (1 - BETA) * grad**2
    expected = 1 / ((moment / (1 - BETA**steps)).sqrt() + EPS)
    metric = AdamMetric(optimizer)(parameter)
    torch.testing.assert_close(metric.double(), expected, rtol=1e-5, atol=0)
    assert metric.dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=["", "amsgrad"])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_given_the_step_s_gradient_the_metric_is_that_of_the_step(steps, options, grads):
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = make_optimizer("adamw", [parameter], **options)
    step_along(optimizer, parameter, grads[:steps])
    metric = AdamMetric(optimizer)
    of_step = metric(parameter, grads[steps])
    step_along(optimizer, parameter, grads[steps : steps + 1])
    torch.testing.assert_close(of_step, metric(parameter), rtol=1e-5, atol=0)


def test_an_embedding_that_no_batch_has_used_yet_does_not_hide_the_others():
    parameter = nn.Parameter(torch.ones(2, 3))
    optimizer = make_optimizer("adamw", [parameter])
    step_along(optimizer, parameter, torch.tensor([[[1.0] * 3, [0.0] * 3]]))
    metric = AdamMetric(optimizer)
    before, of_step = metric(parameter), metric(parameter, torch.ones(2, 3))
    assert (before[1] / before[0]).min() > 500  # up to 1/ε
    assert (of_step[1] / of_step[0]).max() < 2


def test_amsgrad_divides_by_its_largest_moment(grads):
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = make_optimizer("adamw", [parameter], amsgrad=True)
    step_along(optimizer, parameter, torch.cat([100 * grads[:1], grads[1:]]))
    largest = ((1 - BETA) * (100 * grads[0].double()) ** 2 / (1 - BETA**5)).sqrt()
    torch.testing.assert_close(AdamMetric(optimizer)(parameter).double(), 1 / (largest + EPS), rtol=1e-5, atol=0)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_predicts_what_a_step_does_to_a_loss(kind, amsgrad, grads):
    """Without momentum, and where v̂ stays as it is, the prediction is exact: along a constant gradient."""
    parameter = nn.Parameter(torch.ones(3, 4))
    slope = grads[0]
    optimizer = make_optimizer(kind, [parameter], betas=(0.0, BETA), weight_decay=0.0, amsgrad=amsgrad)
    step_along(optimizer, parameter, [slope, slope])
    parameter.grad = slope.clone()
    predicted = GradientPair([parameter], metric=AdamMetric(optimizer)).gram().task
    euclidean = GradientPair([parameter]).gram().task
    before = (parameter.detach() * slope).sum()
    optimizer.step()
    fall = before - (parameter.detach() * slope).sum()
    assert fall.item() == pytest.approx(0.01 * predicted.item(), rel=1e-3)
    assert fall.item() != pytest.approx(0.01 * euclidean.item(), rel=0.1)


def test_the_gram_matrix_is_that_of_a_dense_metric():
    model = TwoHeads()
    batches = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    optimizer = make_optimizer("adamw", list(model.parameters()))
    for batch in batches:
        sum(two_losses(model(batch))).backward()
        optimizer.step()
        optimizer.zero_grad()
    groups = [0, 0, 1, 1, 1, 1, 2, 2]
    task, kd = expected_gradients(model, batches)
    pair = accumulate(GradientPair(model.parameters(), groups, AdamMetric(optimizer)), model, batches)
    gram = torch.stack(pair.gram())
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for parameter, t, k, group in zip(model.parameters(), task, kd, groups, strict=True):
        if parameter in optimizer.state:
            moment = optimizer.state[parameter]["exp_avg_sq"].double() / (1 - BETA**2)
            p, t, k = 1 / (moment.sqrt() + EPS), t.double(), k.double()
            expected[:, group] += torch.stack([(p * t * t).sum(), (p * k * k).sum(), (p * t * k).sum()])
    torch.testing.assert_close(gram.double(), expected, rtol=1e-4, atol=1e-4)


def test_moments_in_half_precision_are_taken_in_fp32():
    parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = make_optimizer("adamw", [parameter])
    step_along(optimizer, parameter, [torch.ones(2, dtype=torch.bfloat16)])
    metric = AdamMetric(optimizer)(parameter)
    assert metric.dtype == torch.float32
    torch.testing.assert_close(metric, torch.full((2,), 1 / (1 + EPS)), rtol=5e-3, atol=0)


def test_each_parameter_has_its_own_group_s_eps(grads):
    first, second = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    groups = [{"params": [first], "eps": 1.0}, {"params": [second]}]
    optimizer = make_optimizer("adamw", groups)
    first.grad = second.grad = torch.zeros(3, 4)
    optimizer.step()
    metric = AdamMetric(optimizer)
    assert metric(first).eq(1).all()
    torch.testing.assert_close(metric(second), torch.full((3, 4), 1 / EPS))


def test_before_the_first_step_it_is_euclidean():
    model = TwoHeads()
    metric = AdamMetric(make_optimizer("adamw", list(model.parameters())))
    pair = accumulate(GradientPair(model.parameters(), metric=metric), model, [torch.ones(2, 3)])
    in_metric, pair.metric = pair.gram(), None
    assert torch.equal(torch.stack(in_metric), torch.stack(pair.gram()))


def test_accelerate_s_wrapper_is_seen_through(grads):
    parameter = nn.Parameter(torch.ones(3, 4))
    wrapped = Accelerator(cpu=True).prepare_optimizer(make_optimizer("adamw", [parameter]))
    step_along(wrapped, parameter, grads)
    assert type(check_adam(wrapped)) is AdamW
    assert torch.equal(AdamMetric(wrapped)(parameter), AdamMetric(wrapped.optimizer)(parameter))


@pytest.mark.parametrize("optimizer_class", [SGD, RMSprop])
def test_another_optimizer_is_refused_by_name(optimizer_class):
    optimizer = optimizer_class([nn.Parameter(torch.ones(1))], lr=0.1)
    for given in (optimizer, SimpleNamespace(optimizer=optimizer)):
        with pytest.raises(ValueError, match=rf"the optimizer is {optimizer_class.__name__}: set optim to adamw"):
            check_adam(given)
    with pytest.raises(ValueError, match="gram_metric"):
        AdamMetric(optimizer)
