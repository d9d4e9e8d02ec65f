"""Compiled code that allows two backward passes through one graph."""

import pytest
import torch
import torch._functorch.config as functorch
import torch.compiler.config as compiler
from torch import nn

from hf_kd_lambda.utils.compiler import allow_two_backwards


class Layers(nn.Module):
    """Layers whose compiled backward pass would write into what it has read."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return self.outer(self.norm(nn.functional.gelu(self.inner(x)).sigmoid()))


def second_gradient(model, x):
    """That of the second of two losses with one graph."""
    output = model(x)
    output.sum().backward(retain_graph=True)
    model.zero_grad()
    output.square().sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    model.zero_grad()
    return gradient


@pytest.fixture
def donating():
    with functorch.patch(donated_buffer=True), compiler.patch(cache_key_tag="given"):
        yield


def test_the_cache_of_the_compiler_has_a_name_of_its_own(donating):
    for _ in range(2):
        allow_two_backwards()
    assert not functorch.donated_buffer
    assert compiler.cache_key_tag == "given without donated buffers"


@pytest.mark.slow
def test_what_was_compiled_before_has_two_backward_passes(donating):
    model, x = Layers(), torch.randn(64, 8)
    expected = second_gradient(model, x)
    model.compile()
    model(x).sum().backward()
    model.zero_grad()
    allow_two_backwards()
    torch.testing.assert_close(second_gradient(model, x), expected, rtol=1e-3, atol=1e-3)
