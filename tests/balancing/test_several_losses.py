"""How several KD losses share the KD loss's weight: against definitions and against MGDA of another library."""

import pytest
import torch

from hf_kd_lambda.balancing.kd_split import KDSplit
from hf_kd_lambda.balancing.rules.common_descent import MGDA
from hf_kd_lambda.balancing.rules.several_losses import equal_lengths, min_norm
from hf_kd_lambda.gradients.gram import Gram


def gradients(losses=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1.0, 0.01, 30.0, 2.0, 5.0])[: losses + 1]
    return torch.randn(losses + 1, size, generator=generator, dtype=torch.float64) * lengths.unsqueeze(-1)


def gram_of(grads):
    return grads @ grads.T


def shortest(grads):
    """MGDA's weights of all, as training makes them: first of the KD losses, then of the task and of these in sum."""
    weights = min_norm(gram_of(grads))
    kd = weights @ grads[1:]
    pair = MGDA().weights(Gram(grads[0] @ grads[0], kd @ kd, grads[0] @ kd))
    return torch.cat([pair.task[None], pair.kd * weights])


def test_kd_gradients_become_as_long_as_their_shares():
    grads, shares = gradients(), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    weights = equal_lengths(gram_of(grads), shares)
    lengths = weights * grads[1:].norm(dim=-1)
    torch.testing.assert_close(lengths / lengths[0], shares / shares[0])


@pytest.mark.parametrize("losses", [1, 2, 3, 4])
def test_the_shortest_combination_of_all_is_found(losses):
    inner = 0
    for seed in range(50):
        grads = gradients(losses, seed=seed)
        weights = shortest(grads)
        combined = weights @ grads
        torch.testing.assert_close(weights.sum().item(), 1.0)
        # Every gradient has at least |d|² in d's direction, and those that take part exactly that (Désidéri 2012).
        slack = grads @ combined - combined @ combined
        scale = grads.norm(dim=-1) * combined.norm()
        assert (slack >= -1e-7 * scale).all()
        assert (slack[weights > 1e-9].abs() <= 1e-6 * scale[weights > 1e-9]).all()
        inner += int((weights > 1e-9).sum() > 2)
    assert losses < 2 or inner > 0, "combinations of more than two must be among the cases"


def test_the_shortest_combination_is_that_of_torchjd():
    mgda = pytest.importorskip("torchjd.aggregation").MGDA(epsilon=1e-12, max_iters=20_000)
    for seed in range(5):
        grads = gradients(seed=seed)
        theirs, ours = mgda(grads), shortest(grads) @ grads
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_task_gradient_that_is_the_shortest_leaves_the_shortest_of_the_others():
    grads = torch.tensor([[0.1, 0.0], [1.0, 1.0], [1.0, -3.0]], dtype=torch.float64)
    torch.testing.assert_close(min_norm(gram_of(grads)), torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_one_loss_keeps_its_weight():
    split = KDSplit([0.7], decay=0.9, mgda=False)
    split.update(gram_of(gradients(1)).float())
    torch.testing.assert_close(split.weights, torch.tensor([0.7]))


def test_equal_lengths_leave_the_lengths_in_sum_as_they_are():
    grads, given = gradients(), torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)
    weights = equal_lengths(gram_of(grads), given)
    lengths = grads[1:].norm(dim=-1)
    torch.testing.assert_close(weights @ lengths, given @ lengths)
    assert (weights - given).abs().max() > 0.1


def test_a_split_is_of_the_average_over_steps():
    split, once = (KDSplit([1.0, 1.0], decay=0.5, mgda=False) for _ in range(2))
    first, second = gram_of(gradients(2)).float(), gram_of(gradients(2, seed=1)).float()
    split.update(first)
    split.update(second)
    once.update((first + 2 * second) / 3)
    torch.testing.assert_close(split.weights, once.weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_what_cannot_be_measured_changes_nothing(value):
    split = KDSplit([1.0, 1.0], decay=0.5, mgda=False)
    split.update(gram_of(gradients(2)).float())
    before = split.state_dict()
    gram = gram_of(gradients(2, seed=1)).float()
    gram[2] = gram[:, 2] = value
    split.update(gram)
    assert split.state_dict() == before
