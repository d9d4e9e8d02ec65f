"""Closed forms against the solvers of TorchJD, on random Jacobians; `pytest -s` prints the table of errors."""

import warnings

import pytest
import torch

from hf_kd_lambda.balancing.rules import make_rule
from hf_kd_lambda.balancing.rules.common_descent import CAGrad
from hf_kd_lambda.gradients.gram import Gram

aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd, the reference, is not installed")


@pytest.fixture(scope="module")
def jacobians():
    """`[1000, 2, 5]`: norms that differ by up to a factor of 20, cosines from −0.95 to 0.96, half of them negative."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(1000, 2, 5, generator=generator, dtype=torch.float64)
    return directions * (0.5 * torch.randn(1000, 2, 1, generator=generator, dtype=torch.float64)).exp()


@pytest.fixture(scope="module")
def grams(jacobians):
    return jacobians @ jacobians.mT


def ours(rule, grams, **hyper):
    matrices = Gram(grams[:, 0, 0], grams[:, 1, 1], grams[:, 0, 1])
    return torch.stack(make_rule(rule, hyper).weights(matrices), dim=1)


def largest_difference(rule, left, right):
    difference = (left - right).abs().max().item()
    print(f"\n{rule:12} largest |Δw| {difference:.1e}", end=" ")
    return difference


def without_regularization():
    from torchjd.linalg import QuadprogProjector

    return QuadprogProjector(reg_eps=0.0)


# The reference, and how far it is off: all but CAGrad's, which comes from a conic solver, by rounding, which depends
# on the processor: weights are up to 20, the ratio of the norms, and known to some 20 epsilons of it.
ROUNDING = 1e-13
REFERENCES = {
    "mgda": (lambda: aggregation.MGDAWeighting(), ROUNDING),
    "imtl_g": (lambda: aggregation.IMTLGWeighting(), ROUNDING),
    "pcgrad": (lambda: aggregation.PCGradWeighting(), ROUNDING),
    "upgrad": (lambda: aggregation.UPGradWeighting(projector=without_regularization()), ROUNDING),
    "dual_proj": (lambda: aggregation.DualProjWeighting(projector=without_regularization()), ROUNDING),
    "aligned_mtl": (lambda: aggregation.AlignedMTLWeighting(), ROUNDING),
    "cagrad": (lambda: aggregation.CAGradWeighting(c=CAGrad.radius), 2e-4),
}
FEWER = 150  # where the reference calls a conic solver, which takes most of the time of these tests


@pytest.mark.parametrize("rule", REFERENCES)
def test_closed_form_is_what_the_reference_finds(rule, grams):
    build, tolerance = REFERENCES[rule]
    grams = grams[:FEWER] if rule == "cagrad" else grams
    try:
        reference = build()
        theirs = torch.stack([reference(gram) for gram in grams])
    except ImportError as missing:
        pytest.skip(f"torchjd lacks a solver: {missing}")
    assert largest_difference(rule, theirs, ours(rule, grams)) <= tolerance


def test_config_finds_the_same_update(jacobians, grams):
    reference = aggregation.ConFIG()
    updates = torch.stack([reference(jacobian) for jacobian in jacobians])
    theirs = torch.linalg.lstsq(jacobians.mT, updates[..., None]).solution[..., 0]
    assert largest_difference("config", theirs, ours("config", grams)) <= 1e-13


def test_nash_solves_its_equation_and_agrees_with_the_reference_where_that_does_too(jacobians, grams):
    def residual(weights):
        return ((grams[: len(weights)] @ weights[..., None])[..., 0] - 1 / weights).abs().amax(dim=1)

    closed_form = ours("nash", grams)
    assert residual(closed_form).max() <= 1e-13
    try:
        reference = aggregation.NashMTL(n_tasks=2, max_norm=0.0)
    except ImportError as missing:
        pytest.skip(f"torchjd lacks a solver: {missing}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy's, of an inaccurate or failed solution
        theirs = torch.stack([reference.weighting(jacobian) for jacobian in jacobians[:FEWER]])
    solved = residual(theirs) < 1e-2
    assert solved.float().mean() > 0.9
    assert largest_difference("nash", theirs[solved], closed_form[: len(theirs)][solved]) <= 3e-4
    print(f"(the reference failed on {int((~solved).sum())} of {len(solved)})", end=" ")
