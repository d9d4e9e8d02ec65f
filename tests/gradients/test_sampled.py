"""The Gram matrix without noise: exact for given samples, right on average, and no dearer than it says."""

import math
import weakref
from collections import Counter

import pytest
import torch
from helpers.two_heads import TwoHeads, accumulate, expected_gradients
from torch import nn

from hf_kd_lambda.balancing.signal import bounded_signal
from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.gradients.pair import GradientPair
from hf_kd_lambda.gradients.sampled import SampledGradientPair

GROUPS = [1, 1, 0, 0, 0, 0, 2, 2]


@pytest.fixture
def batches():
    return list(torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1)))


def doubled(parameter, gradient):
    return torch.full_like(parameter, 2.0)


# --- the estimate


@pytest.mark.parametrize("metric", [None, doubled])
@pytest.mark.parametrize("groups", [None, GROUPS])
def test_only_products_of_different_micro_batches_count(batches, groups, metric):
    model = TwoHeads()
    samples = [expected_gradients(model, [batch]) for batch in batches]
    pairs = torch.zeros(3, 3, dtype=torch.float64)
    for i, first in enumerate(samples):
        for j, second in enumerate(samples):
            if i != j:
                for t, k, other_t, other_k, group in zip(*first, *second, GROUPS, strict=True):
                    dots = [(t.double() * other_t).sum(), (k.double() * other_k).sum(), (t.double() * other_k).sum()]
                    pairs[:, group] += torch.stack(dots)
    # The mean product of two samples, each of which is a third of an estimate of the mean gradient.
    expected = 3 * 3 * pairs / (3 * 2) * (1 if metric is None else 2)
    pair = accumulate(SampledGradientPair(model.parameters(), groups, metric), model, batches)
    unbiased = torch.stack(pair.unbiased(pair.gram())).double()
    torch.testing.assert_close(unbiased, expected if groups else expected.sum(dim=-1), rtol=1e-4, atol=1e-4)


def test_it_is_right_on_average():
    """For L_task = mean ½|w − x|², L_kd = mean ½|w − 2x|², of samples x around 0, the gradients' expectation is w."""
    weight = nn.Parameter(torch.tensor([0.3, -0.1, 0.2, 0.2]))
    generator = torch.Generator().manual_seed(0)
    noisy, unbiased = [], []
    for _ in range(1500):
        pair = SampledGradientPair([weight])
        for x in torch.randn(3, 2, 4, generator=generator):  # three micro-batches of two examples
            outputs, cut = cut_outputs({"weight": weight * 1})
            losses = ((outputs["weight"] - factor * x).square().sum() / (2 * 6) for factor in (1, 2))
            pair.accumulate(cut, *losses)
        gram = pair.gram()
        noisy.append(torch.stack(gram))
        unbiased.append(torch.stack(pair.unbiased(gram)))
        pair.drop()
    exact = weight.detach().square().sum()
    noisy, unbiased = torch.stack(noisy), torch.stack(unbiased)
    standard_error = unbiased.std(dim=0) / math.sqrt(len(unbiased))
    assert ((unbiased.mean(dim=0) - exact).abs() < 4 * standard_error).all()
    # The noise's own products: the variance of 1·x, 2·x, and their covariance, in 4 dimensions, over 6 examples.
    variance = torch.tensor([1.0, 4.0, 2.0]) * 4 / 6
    assert ((noisy.mean(dim=0) - exact - variance).abs() < 4 * noisy.std(dim=0) / math.sqrt(len(noisy))).all()
    assert (variance > 20 * standard_error).all(), "the test could tell the two apart"


@pytest.mark.parametrize(
    ("labelled", "items"), [([1, 1, 0, 0], [1, 1, 1, 1]), ([3, 1, 0, 2], [4, 2, 1, 2]), ([1, 0, 0, 0], [2, 1, 1, 1])]
)
def test_samples_without_noise_are_all_signal_whatever_their_shares(labelled, items):
    """Each loss has a gradient w for each of its items, and so w for the mean over its items."""
    weight = nn.Parameter(torch.tensor([0.3, -0.1, 0.2, 0.2]))
    pair = SampledGradientPair([weight])
    for shares in torch.tensor([labelled, items], dtype=torch.float).T / torch.tensor([sum(labelled), sum(items)]):
        outputs, cut = cut_outputs({"weight": weight * 1})
        task_loss, kd_loss = (share * outputs["weight"].square().sum() / 2 for share in shares)
        pair.accumulate(cut, task_loss, kd_loss, item_shares=shares)
    gram = pair.gram()
    expected = weight.detach().square().sum().expand(3)
    torch.testing.assert_close(torch.stack(gram), expected)
    torch.testing.assert_close(torch.stack(pair.unbiased(gram)), expected)


def test_it_is_right_on_average_where_labels_are_missing():
    """As above, with labels of one, three and none of the examples of three micro-batches."""
    weight = nn.Parameter(torch.tensor([0.3, -0.1, 0.2, 0.2]))
    generator = torch.Generator().manual_seed(0)
    estimates = []
    for _ in range(1500):
        pair = SampledGradientPair([weight])
        for labelled, x in zip((1, 3, 0), torch.randn(3, 3, 4, generator=generator), strict=True):
            outputs, cut = cut_outputs({"weight": weight * 1})
            task_loss = (outputs["weight"] - x[:labelled]).square().sum() / (2 * 4)
            kd_loss = (outputs["weight"] - 2 * x).square().sum() / (2 * 9)
            pair.accumulate(cut, task_loss, kd_loss, item_shares=torch.tensor([labelled / 4, 3 / 9]))
        estimates.append(torch.stack(pair.unbiased(pair.gram())))
        pair.drop()
    estimates = torch.stack(estimates)
    standard_error = estimates.std(dim=0) / math.sqrt(len(estimates))
    assert ((estimates.mean(dim=0) - weight.detach().square().sum()).abs() < 4 * standard_error).all()


def test_one_sample_keeps_its_noise(batches):
    model = TwoHeads()
    pair = accumulate(SampledGradientPair(model.parameters()), model, batches[:1])
    gram = pair.gram()
    assert pair.unbiased(gram) is gram


def test_samples_without_noise_are_all_signal(batches):
    model = TwoHeads()
    pair = accumulate(SampledGradientPair(model.parameters(), [*GROUPS[:6], 1, 1]), model, batches[:1] * 4)
    gram = pair.gram()
    signal = bounded_signal(pair.unbiased(gram), torch.stack(gram[:2]))
    torch.testing.assert_close(torch.stack(signal.gram), torch.stack(gram), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(signal.share, torch.ones(2, 2), rtol=1e-4, atol=0)


# --- the gradients


def test_both_gradients_are_those_of_an_ordinary_pair_bit_for_bit(batches):
    plain, sampled = TwoHeads(), TwoHeads()
    expected = accumulate(GradientPair(plain.parameters()), plain, batches)
    pair = accumulate(SampledGradientPair(sampled.parameters()), sampled, batches)
    assert torch.equal(torch.stack(pair.gram()), torch.stack(expected.gram()))
    for one, other in zip(plain.parameters(), sampled.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    for one, other in zip(expected.kd_grads, pair.kd_grads, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


def test_frozen_parameters_are_passed_over(batches):
    model = TwoHeads()
    model.body.requires_grad_(False)
    pair = accumulate(SampledGradientPair(model.parameters()), model, batches)
    assert pair.unbiased(pair.gram()).is_finite()
    assert model.body.weight.grad is None


def test_no_pass_is_added(batches):
    model, passes = TwoHeads(), Counter()
    model.body.register_forward_hook(lambda *_: passes.update(["forward"]))
    model.body.weight.register_post_accumulate_grad_hook(lambda _: passes.update(["backward"]))
    accumulate(SampledGradientPair(model.parameters()), model, batches)
    assert passes == {"forward": 3, "backward": 6}


def test_at_most_four_gradients_are_alive(batches):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(6)))
    parameters = list(model.parameters())
    born, alive = [], []

    def count(parameter):
        born.append(weakref.ref(parameter.grad))
        alive.append(sum(grad() is not None for grad in born))

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(count)
    pair = SampledGradientPair(parameters)
    for batch in batches:
        outputs, cut = cut_outputs({"x": model(batch)})
        pair.accumulate(cut, outputs["x"].square().sum(), outputs["x"].sin().sum())
    assert len(born) == 2 * 6 * 3, "the hook saw every gradient"
    assert max(alive) == 4 * 6
    assert sum(grad() is not None for grad in born) == 2 * 6, "both sums"
