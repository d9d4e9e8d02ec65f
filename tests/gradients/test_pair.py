"""Two gradients of one forward: how they are taken, averaged, measured and combined."""

from collections import Counter

import pytest
import torch
from helpers.two_heads import TwoHeads, accumulate, expected_gradients

from hf_kd_lambda.gradients.pair import GradientPair


def accumulated(model, batches, groups=None, metric=None):
    return accumulate(GradientPair(model.parameters(), groups, metric), model, batches)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator) for size in (4, 2)]


# --- two gradients


def test_each_gradient_is_the_one_that_autograd_gives(batches):
    model = TwoHeads()
    expected = expected_gradients(model, batches[:1])
    pair = accumulated(model, batches[:1])
    pair.gram()
    reached = list(model.parameters())[:6]  # all but the last layer
    for index, parameter in enumerate(reached):
        torch.testing.assert_close(parameter.grad, expected[0][index])
        torch.testing.assert_close(pair.kd_grads[index], expected[1][index])
    assert model.unused.weight.grad is None


def test_gradients_accumulate_apart_over_micro_batches(batches):
    model = TwoHeads()
    task, kd = expected_gradients(model, batches)
    pair = accumulated(model, batches)
    flat_task, flat_kd = (torch.cat([g.flatten() for g in grads]).double() for grads in (task, kd))
    expected = [flat_task @ flat_task, flat_kd @ flat_kd, flat_task @ flat_kd]
    torch.testing.assert_close(torch.stack(pair.gram()).double(), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_between_micro_batches_the_task_gradient_lies_in_grad(batches):
    model = TwoHeads()
    accumulated(model, batches)
    torch.testing.assert_close(model.body.weight.grad, expected_gradients(model, batches)[0][0])


def test_the_student_runs_forward_once_and_backward_once_per_loss(batches):
    model, passes = TwoHeads(), Counter()
    model.body.register_forward_hook(lambda *_: passes.update(["forward"]))
    model.body.weight.register_post_accumulate_grad_hook(lambda _: passes.update(["backward"]))
    accumulated(model, batches)
    assert passes == {"forward": 2, "backward": 4}


def test_a_parameter_that_one_loss_reaches_gets_zeros_for_the_other(batches):
    model = TwoHeads()
    pair = accumulated(model, batches)
    assert model.kd_head.weight.grad is None
    pair.gram()
    assert model.kd_head.weight.grad.eq(0).all()
    kd_grads = dict(zip((name for name, _ in model.named_parameters()), pair.kd_grads, strict=True))
    assert kd_grads["kd_head.weight"].ne(0).any()


def test_combine_weighs_both_gradients_into_grad(batches):
    model = TwoHeads()
    task, kd = expected_gradients(model, batches)
    pair = accumulated(model, batches)
    pair.gram()
    pair.combine(torch.tensor(0.25), torch.tensor(3.0))
    for (name, parameter), t, k in zip(model.named_parameters(), task, kd, strict=True):
        if name.startswith("unused"):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, 0.25 * t + 3 * k, msg=lambda text, name=name: f"{name}: {text}")
    assert pair.kd_grads == [None] * 8


def test_drop_leaves_no_gradient(batches):
    model = TwoHeads()
    pair = accumulated(model, batches)
    pair.gram()
    pair.drop()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert pair.kd_grads == [None] * 8


# --- groups of parameters

BODY, HEADS, UNUSED = 1, 0, 2
GROUPS = [BODY, BODY, HEADS, HEADS, HEADS, HEADS, UNUSED, UNUSED]


def test_each_group_has_a_gram_matrix_of_its_own(batches):
    model = TwoHeads()
    task, kd = expected_gradients(model, batches)
    gram = torch.stack(accumulated(model, batches, GROUPS).gram()).double()
    assert gram.shape == (3, 3)
    for group in (BODY, HEADS, UNUSED):
        x, y = (
            torch.cat([g.flatten() for g, member in zip(grads, GROUPS, strict=True) if member == group]).double()
            for grads in (task, kd)
        )
        expected = torch.stack([x @ x, y @ y, x @ y])
        torch.testing.assert_close(gram[:, group], expected, rtol=1e-5, atol=1e-6)


def test_the_groups_gram_matrices_sum_to_that_of_all(batches):
    model = TwoHeads()
    by_group = torch.stack(accumulated(model, batches, GROUPS).gram())
    model.zero_grad()
    torch.testing.assert_close(by_group.sum(dim=-1), torch.stack(accumulated(model, batches).gram()))


def test_one_group_s_overflow_is_not_another_s(batches):
    model = TwoHeads()
    pair = accumulated(model, batches, GROUPS)
    model.body.weight.grad[0, 0] = float("inf")
    gram = pair.gram()
    assert gram.task.isfinite().tolist() == [True, False, True]
    assert not gram.is_finite()


def test_combine_weighs_each_group_by_itself_or_all_alike(batches):
    model = TwoHeads()
    task, kd = expected_gradients(model, batches)
    pair = accumulated(model, batches, GROUPS)
    pair.gram()
    task_weights, kd_weights = torch.tensor([0.5, 0.25, 7.0]), torch.tensor([2.0, 3.0, 7.0])
    pair.combine(task_weights, kd_weights)
    for parameter, t, k, group in list(zip(model.parameters(), task, kd, GROUPS, strict=True))[:6]:
        torch.testing.assert_close(parameter.grad, task_weights[group] * t + kd_weights[group] * k)
    assert model.unused.weight.grad is None

    model.zero_grad()
    pair = accumulated(model, batches, GROUPS)
    pair.gram()
    pair.combine(torch.tensor(0.25), torch.tensor(3.0))
    torch.testing.assert_close(model.body.weight.grad, 0.25 * task[0] + 3 * kd[0])


@pytest.mark.parametrize("groups", [None, [0, 0, 1, 1, 1, 1, 2, 2]])
def test_the_metric_is_given_the_gradient_of_the_step(batches, groups):
    model, given = TwoHeads(), []
    weights = (torch.tensor([0.5, 1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0]))
    weights = weights if groups else (weights[0][0], weights[1][0])

    def metric(parameter, gradient):
        given.append(gradient)
        return torch.ones(())

    pair = accumulated(model, batches, groups, metric)
    norm, gram = pair.combined_norm(*weights), pair.gram(weights)
    assert torch.equal(torch.stack(gram), torch.stack(accumulated(TwoHeads(), batches, groups).gram()))
    pair.combine(*weights)
    combined = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for gradient, grad in zip(given, combined, strict=True):
        torch.testing.assert_close(gradient, grad)
    assert norm.item() == pytest.approx(torch.cat([grad.flatten() for grad in combined]).norm().item(), rel=1e-5)


def test_the_metric_is_asked_for_parameters_with_a_gradient_alone(batches):
    model, asked = TwoHeads(), []

    def metric(parameter, gradient):
        assert gradient is None
        asked.append(parameter)
        return torch.full_like(parameter, 2.0) if parameter.dim() == 2 else torch.tensor(3.0)

    gram = accumulated(model, batches, metric=metric).gram()
    assert [id(parameter) for parameter in asked] == [id(parameter) for parameter in list(model.parameters())[:6]]
    task, kd = expected_gradients(model, batches)
    factors = [2.0 if grad.dim() == 2 else 3.0 for grad in task]
    dots = [
        sum(factor * (x.double() * y.double()).sum() for factor, x, y in zip(factors, *grads, strict=True))
        for grads in ((task, task), (kd, kd), (task, kd))
    ]
    torch.testing.assert_close(torch.stack(gram).double(), torch.stack(dots), rtol=1e-5, atol=1e-6)
