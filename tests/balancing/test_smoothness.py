"""The smoothness estimate on quadratics whose smoothness is known."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from hf_kd_lambda.balancing.smoothness import Smoothness
from hf_kd_lambda.gradients.gram import Gram

SIZE = 6


class Quadratics:
    """L_i = ½ (θ − θ_i)ᵀ H_i (θ − θ_i), descended along w_task g_task + w_kd g_kd in fp64."""

    def __init__(self, task_beta, kd_beta, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.optima = self.noise(2, SIZE)
        self.hessians = torch.tensor([[task_beta], [kd_beta]], dtype=torch.float64).expand(2, SIZE)
        self.theta = 3 * self.noise(SIZE)

    def noise(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def losses(self):
        return (0.5 * self.hessians * (self.theta - self.optima).square()).sum(-1)

    def gradients(self):
        return self.hessians * (self.theta - self.optima)

    def step(self, gradients, weights, rate):
        self.theta = self.theta - rate * (weights[0] * gradients[0] + weights[1] * gradients[1])


def gram_of(gradients):
    task, kd = gradients.float()
    return Gram(task @ task, kd @ kd, task @ kd)


def pair(task, kd):
    return torch.tensor(task), torch.tensor(kd)


def descend(problem, smoothness, steps, rate=0.1, weights=(0.5, 0.5)):
    for _ in range(steps):
        gradients = problem.gradients()
        smoothness.update(problem.losses(), gram_of(gradients), pair(*weights), rate)
        problem.step(gradients, weights, rate)


def test_full_batch_quadratics_are_measured_exactly():
    smoothness = Smoothness(decay=0.8)
    descend(Quadratics(2.0, 0.5), smoothness, 11)
    assert_close(smoothness.value, torch.tensor([0.2, 0.05]), rtol=1e-3, atol=0)


def test_learning_rate_and_weights_may_vary_and_the_rate_start_at_zero():
    problem, smoothness = Quadratics(2.0, 0.5), Smoothness(decay=0.8)
    for step in range(30):
        descend(problem, smoothness, 1, rate=0.01 * step, weights=(step % 2, 0.3))
    assert_close(smoothness.value, torch.tensor([2.0, 0.5]) * 0.29, rtol=1e-2, atol=0)


def test_the_curvature_is_that_along_the_steps():
    problem, smoothness = Quadratics(0.0, 1.0), Smoothness(decay=0.5)
    problem.hessians = torch.tensor([[0.5, 3, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.float64)
    problem.theta, problem.optima = problem.optima[0].clone(), problem.optima.clone()
    problem.theta[0] += 1  # along the first axis, where the task loss has curvature 0.5
    descend(problem, smoothness, 5, weights=(1.0, 0.0))
    assert_close(smoothness.value[0].item(), 0.05, rtol=1e-3, atol=0)


def test_noise_of_the_losses_averages_out():
    values = []
    for seed in range(20):
        problem, smoothness = Quadratics(1.0, 2.0, seed), Smoothness()
        for step in range(400):
            gradients = problem.gradients()
            weights = (1.0, 0.0) if step % 20 < 10 else (0.0, 1.0)  # to and fro, so that it never comes to rest
            smoothness.update(problem.losses() + problem.noise(2), gram_of(gradients), pair(*weights), 0.1)
            problem.step(gradients, weights, 0.1)
        values.append(smoothness.value)
    assert_close(torch.stack(values).mean(0), torch.tensor([0.1, 0.2]), rtol=0.1, atol=0)


@pytest.mark.parametrize("unbiased", [False, True])
def test_where_noisy_gradients_no_longer_help_the_second_order_eats_the_first(unbiased):
    """At rest SGD gains nothing on average, and −η|g|² + ½sη|g|² = 0 at s = 2, whatever β and the Gram matrix."""
    problem, smoothness = Quadratics(1.0, 1.0), Smoothness(decay=0.995)
    problem.theta, centre = problem.optima[0].clone(), problem.optima
    for _ in range(2000):
        problem.optima = centre + problem.noise(2, SIZE)
        gradients = problem.gradients()
        signal = problem.hessians * (problem.theta - centre)
        smoothness.update(problem.losses(), gram_of(signal if unbiased else gradients), pair(1.0, 0.0), 0.2)
        problem.step(gradients, (1.0, 0.0), 0.2)
    assert smoothness.averages[1, 0] > 0
    estimate = 2 * smoothness.averages[1, 0] / smoothness.averages[1, 2] * 0.2
    assert_close(estimate.item(), 2.0, rtol=0.15, atol=0)


def test_the_initial_value_holds_until_the_averages_are_full():
    problem, smoothness = Quadratics(2.0, 0.5), Smoothness(decay=0.9, initial=0.7)
    descend(problem, smoothness, 20)  # 19 pairs
    assert_close(smoothness.value, torch.tensor([0.7, 0.7]))
    descend(problem, smoothness, 1)
    assert_close(smoothness.value, torch.tensor([0.2, 0.05]), rtol=1e-2, atol=0)


def test_without_a_step_there_is_nothing_to_learn():
    smoothness = Smoothness(decay=0.5)
    descend(Quadratics(2.0, 0.5), smoothness, 10, rate=0.0)
    assert smoothness.value.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("task_beta", "kd_beta"), [(-1.0, 25.0), (0.0, 30.0)])
def test_the_value_stays_within_its_bounds(task_beta, kd_beta):
    smoothness = Smoothness(decay=0.5)
    descend(Quadratics(task_beta, kd_beta), smoothness, 10, weights=(0.9, 0.1))
    assert_close(smoothness.value, torch.tensor([0.01, 2.0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["losses", "gram", "weights", "rate"])
def test_a_step_that_is_not_finite_is_left_out_with_the_pair_before_it(bad, where):
    problem, smoothness = Quadratics(2.0, 0.5), Smoothness(decay=0.8)
    descend(problem, smoothness, 11)
    pairs, before = smoothness.pairs.item(), smoothness.value
    losses, gram = problem.losses(), gram_of(problem.gradients())
    smoothness.update(
        losses * bad if where == "losses" else losses,
        Gram(gram.task, gram.kd * bad, gram.dot) if where == "gram" else gram,
        pair(bad if where == "weights" else 0.5, 0.5),
        bad if where == "rate" else 0.1,
    )
    problem.theta = problem.theta + 1  # whatever became of that step
    json.dumps(smoothness.state_dict(), allow_nan=False)
    descend(problem, smoothness, 3)
    # A step with finite losses still closes the pair before it.
    assert smoothness.pairs.item() == pairs + (2 if where == "losses" else 3)
    assert_close(smoothness.value, before, rtol=1e-3, atol=0)


def test_groups_of_parameters_add_up():
    whole, layered = Smoothness(decay=0.8), Smoothness(decay=0.8)
    problem = Quadratics(2.0, 0.5)
    for _ in range(12):
        gradients = problem.gradients()
        parts = [gram_of(part) for part in gradients.split(SIZE // 3, dim=-1)]
        groups = Gram(*(torch.stack(entries) for entries in zip(*parts, strict=True)))
        whole.update(problem.losses(), gram_of(gradients), pair(0.4, 0.6), 0.1)
        layered.update(problem.losses(), groups, (torch.full((3,), 0.4), torch.full((3,), 0.6)), 0.1)
        problem.step(gradients, (0.4, 0.6), 0.1)
    assert_close(layered.value, whole.value)


@pytest.mark.parametrize("steps", [0, 1, 40])
def test_the_state_survives_json_and_continues_bit_for_bit(steps):
    problem, smoothness, restored = Quadratics(2.0, 0.5), Smoothness(decay=0.8), Smoothness(decay=0.8)
    descend(problem, smoothness, steps)
    restored.load_state_dict(json.loads(json.dumps(smoothness.state_dict(), allow_nan=False)))
    assert restored.state_dict() == smoothness.state_dict()
    theta = problem.theta
    for twin in (smoothness, restored):
        problem.theta = theta
        descend(problem, twin, 20)
    assert restored.state_dict() == smoothness.state_dict()
    assert restored.value.dtype == torch.float32


def test_the_state_follows_the_gradients_device_and_waits_for_nothing():
    smoothness = Smoothness()  # the meta device has no values to wait for
    scalar = torch.zeros((), device="meta")
    for rate in (0.1, scalar):
        smoothness.update(torch.zeros(2, device="meta"), Gram(scalar, scalar, scalar), (scalar, scalar), rate)
    assert smoothness.value.device.type == "meta"
