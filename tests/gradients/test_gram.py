"""The Gram matrix of two gradients."""

import itertools
import math

import pytest
import torch

from hf_kd_lambda.gradients.gram import Gram, gram_matrix


def test_gram_matrix_is_that_of_float64():
    def dots(x, y, p=1.0):
        return [(p * x * x).sum().item(), (p * y * y).sum().item(), (p * x * y).sum().item()]

    generator = torch.Generator().manual_seed(0)
    for shape in [(300, 40), (7,), (), (5, 2, 3)]:
        task, kd, scale = torch.randn(3, *shape, generator=generator)
        x, y, p = (tensor.flatten().double() for tensor in (task, kd, scale))
        plain, scaled = gram_matrix(task, kd), gram_matrix(task, kd, scale)
        assert [value.item() for value in plain] == pytest.approx(dots(x, y), rel=1e-5, abs=1e-5)
        assert [value.item() for value in scaled] == pytest.approx(dots(x, y, p), rel=1e-5, abs=1e-4)
        assert all(value.dtype == torch.float32 for value in plain + scaled)


def test_gram_matrix_of_half_precision_gradients_does_not_overflow():
    half = torch.full((100,), 1000.0, dtype=torch.float16)  # each square alone is beyond fp16's 65504
    assert gram_matrix(half, half).task.item() == pytest.approx(1e8)
    assert gram_matrix(half, half, torch.tensor(0.5)).task.item() == pytest.approx(5e7)


def test_cosine_of_the_gradients():
    assert Gram(torch.tensor(4.0), torch.tensor(9.0), torch.tensor(-3.0)).cosine.item() == -0.5


def test_one_bad_entry_makes_the_gram_matrix_non_finite():
    assert Gram(*torch.ones(3)).is_finite()
    for entry, value in itertools.product(range(3), (math.nan, math.inf, -math.inf)):
        entries = torch.ones(3)
        entries[entry] = value
        assert not Gram(*entries).is_finite(), (entry, value)
