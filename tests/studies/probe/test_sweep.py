"""Predicted parabolas against losses whose changes are known, and against a tiny BERT."""

import pytest
import torch
from helpers.probe_points import bert_losses, stepped_adamw
from torch import nn
from torch.optim import SGD

from hf_kd_lambda.studies.probe.slopes import measure_slopes
from hf_kd_lambda.studies.probe.steps import gradients_of
from hf_kd_lambda.studies.probe.sweep import fit_parabola, sweep
from hf_kd_lambda.studies.probe.updates import adam_momentum, adam_tangent, metric_of_step, sgd_update

LAMBDAS = torch.linspace(-1, 2, 15, dtype=torch.double)
METRIC = "Gram matrix"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def sgd_sweep(losses, parameters, rates):
    gradients = gradients_of(losses, parameters)
    products = {METRIC: sgd_update(gradients).products(gradients)}
    return sweep(losses, SGD(parameters), gradients, products, LAMBDAS, rates, (1.0, 1.0))


def test_a_parabola_is_found_again():
    lambdas = torch.linspace(-1, 3, 15, dtype=torch.double)
    values = torch.stack([2 - 3 * lambdas + 0.5 * lambdas**2, lambdas**3])
    fit = fit_parabola(lambdas, values)
    torch.testing.assert_close(fit.coefficients[0], torch.tensor([2, -3, 0.5], dtype=torch.double))
    assert fit.r_squared[0] == pytest.approx(1, abs=1e-12)
    assert 0.5 < fit.r_squared[1] < 0.999


def test_linear_losses_change_by_exactly_the_predicted_parabola():
    weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.9], dtype=torch.double))
    slopes = torch.tensor([[1.0, 2.0, 0.0], [-2.0, 0.5, 1.0]], dtype=torch.double)
    found = sgd_sweep(lambda: slopes @ weight, [weight], (0.1, 10.0))
    a, b, c = 5.0, 5.25, -1.0
    expected = -torch.tensor([[a, c, 0], [c, b, 0], [a, 2 * c, b]], dtype=torch.double)
    torch.testing.assert_close(found.coefficients(METRIC), expected)
    torch.testing.assert_close(found.fit().coefficients[0], 0.1 * expected, atol=1e-12, rtol=0)
    assert found.fit().r_squared.min() == pytest.approx(1, abs=1e-12)
    assert found.coefficient_errors(METRIC).max() < 1e-12
    assert found.holds_up_to(METRIC) == 10.0


def test_quadratic_losses_bend_the_lines_by_their_curvature():
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.double))
    centres = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.double)

    def losses():
        return 0.5 * (weight - centres).square().sum(-1)

    rate, (a, b, c) = 0.01, (5.0, 9.0, 6.0)
    fitted = sgd_sweep(losses, [weight], (rate,)).fit()
    bend = rate**2 / 2 * torch.tensor([a, 2 * c, b], dtype=torch.double)  # η²|g_task + λ·g_kd|²/2 of a Hessian of one
    task, kd = torch.tensor([[a, c, 0], [c, b, 0]], dtype=torch.double)
    torch.testing.assert_close(fitted.coefficients[0, 0], -rate * task + bend)
    torch.testing.assert_close(fitted.coefficients[0, 1], -rate * kd + bend)


def test_the_error_on_a_bert_falls_linearly_with_the_learning_rate():
    model, losses = bert_losses()
    found = sgd_sweep(losses, list(model.parameters()), (1e-6, 1e-5, 1e-4))
    curvature = found.coefficient_errors(METRIC)[:, 2]
    assert curvature[0] < 1e-3
    torch.testing.assert_close(curvature[1:] / curvature[:-1], torch.full((2,), 10.0).double(), rtol=0.1, atol=0)
    assert found.fit().r_squared.min() > 0.9999


def test_a_factor_is_fitted_where_asked_for():
    weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.9], dtype=torch.double))
    slopes = torch.tensor([[1.0, 2.0, 0.0], [-2.0, 0.5, 1.0]], dtype=torch.double)
    gradients = gradients_of(lambda: slopes @ weight, [weight])
    products = {METRIC: 4 * sgd_update(gradients).products(gradients)}
    found = sweep(lambda: slopes @ weight, SGD([weight]), gradients, products, LAMBDAS, (0.1,), (1.0, 1.0))
    assert found.change_errors(METRIC).item() == pytest.approx(3)
    assert found.change_errors(METRIC, scaled=True).item() == pytest.approx(0, abs=1e-9)
    assert found.coefficient_errors(METRIC, scaled=True).max() < 1e-9
    assert found.holds_up_to(METRIC) is None


def test_adams_own_metric_and_the_derivative_predict_adamw_better_than_the_euclidean_metric():
    model, losses = bert_losses()
    optimizer = stepped_adamw(model, losses, steps=100)
    gradients = gradients_of(losses, list(model.parameters()))
    weights = (0.5, 0.5)
    momentum = adam_momentum(optimizer, gradients)
    products = {
        "derivative": adam_tangent(optimizer, gradients, weights).products(gradients),
        "Adam": momentum.times(metric_of_step(optimizer, gradients, weights)).products(gradients),
        "Euclidean": momentum.products(gradients),
    }
    slopes = measure_slopes(losses, optimizer, gradients, products, 1e-8, weights)
    derivative, adam, euclidean = (slopes.error(name) for name in products)
    assert derivative < 1e-4
    assert adam < euclidean / 2
    assert slopes.ratio_error("derivative") < 1.001
    assert slopes.cosine_error("derivative") < 1e-3
    assert slopes.ratio_error("Euclidean") > 1.001

    found = sweep(losses, optimizer, gradients, products, LAMBDAS.clamp(min=0), (1e-8,), weights)
    derivative, adam, euclidean = (found.change_errors(name, scaled=True).item() for name in products)
    assert derivative < euclidean
    assert adam < euclidean
    assert found.change_errors("Adam").item() < 0.1
    assert found.change_errors("Euclidean").item() > 0.9


def test_the_slopes_of_sgd_are_the_gram_matrix():
    model, losses = bert_losses()
    gradients = gradients_of(losses, list(model.parameters()))
    products = {METRIC: sgd_update(gradients).products(gradients)}
    slopes = measure_slopes(losses, SGD(model.parameters()), gradients, products, 1e-7, (1.0, 2.0))
    torch.testing.assert_close(slopes.measured, products[METRIC][:, 1:], rtol=1e-3, atol=1e-6)
    assert slopes.error(METRIC) < 1e-4
