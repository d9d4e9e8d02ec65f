"""Two gradients of one forward: how they are taken, averaged, measured and combined."""

from collections import Counter

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_kd_lambda import gram as gram_module
from hf_kd_lambda.gram import GradientPair, Gram, cut_outputs, gram_matrix


class TwoHeads(nn.Module):
    """A body with a head for each loss, and a layer that neither uses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.task_head, self.kd_head, self.unused = (nn.Linear(3, 3) for _ in range(4))

    def forward(self, x):
        hidden = self.body(x).tanh()
        return SequenceClassifierOutput(logits=self.task_head(hidden), hidden_states=(x, self.kd_head(hidden)))


def two_losses(outputs):
    """A task loss of one output, a KD loss of both."""
    return outputs.logits.square().mean(), outputs.hidden_states[1].sin().sum() + outputs.logits.sum()


def expected_gradients(model, batches):
    """The gradients of both losses, summed over the batches, by `torch.autograd.grad`; zeros where there is none."""
    sums = []
    for index in range(2):
        loss = sum(two_losses(model(batch))[index] for batch in batches)
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        sums.append([torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), grads, strict=True)])
    return sums


def accumulated(model, batches):
    pair = GradientPair(model.parameters())
    for batch in batches:
        outputs, cut = cut_outputs(model(batch))
        pair.accumulate(cut, *two_losses(outputs))
    return pair


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator) for size in (4, 2)]


# --- cutting the graph


def test_differentiable_outputs_become_leaves_and_the_rest_is_kept(batches):
    outputs = TwoHeads()(batches[0])
    copy, cut = cut_outputs(outputs)
    assert type(copy) is SequenceClassifierOutput
    assert cut.roots[0] is outputs.logits
    assert copy.logits is cut.leaves[0]
    assert copy.logits.is_leaf
    assert copy.logits.requires_grad
    assert torch.equal(copy.logits, outputs.logits)
    assert copy.hidden_states[0] is batches[0], "the input needs no gradient and is passed on"
    assert copy.hidden_states[1] is cut.leaves[1]
    assert copy.loss is None
    assert copy.attentions is None


def test_nested_tuples_are_cut_too():
    x = torch.ones(2, requires_grad=True)
    outputs, cut = cut_outputs({"cache": ((x * 2, None), (x * 3,))})
    assert [root.tolist() for root in cut.roots] == [[2, 2], [3, 3]]
    assert outputs["cache"][0][1] is None
    assert outputs["cache"][1][0] is cut.leaves[1]


def test_seeds_are_none_for_outputs_that_a_loss_does_not_use(batches):
    outputs, cut = cut_outputs(TwoHeads()(batches[0]))
    task, kd = two_losses(outputs)
    logits_seed, hidden_seed = cut.seeds(task)
    torch.testing.assert_close(logits_seed, 2 * outputs.logits / outputs.logits.numel())
    assert hidden_seed is None
    assert all(seed is not None for seed in cut.seeds(kd))


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


# --- the Gram matrix


def test_gram_matrix_is_that_of_float64():
    generator = torch.Generator().manual_seed(0)
    shapes = [(300, 40), (7,), (), (5, 2, 3)]
    left, right = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    x, y = (torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (left, right))
    gram = gram_matrix(left, right)
    assert [value.item() for value in gram] == pytest.approx(
        [(x @ x).item(), (y @ y).item(), (x @ y).item()], rel=1e-5
    )
    assert all(value.dtype == torch.float32 for value in gram)


def test_gram_matrix_of_half_precision_gradients_does_not_overflow():
    half = [torch.full((100,), 1000.0, dtype=torch.float16)]  # each square alone is beyond fp16's 65504
    assert gram_matrix(half, half).task.item() == pytest.approx(1e8)


def test_cosine_of_the_gradients():
    assert Gram(torch.tensor(4.0), torch.tensor(9.0), torch.tensor(-3.0)).cosine.item() == -0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("entry", range(3))
def test_one_bad_entry_makes_the_gram_matrix_non_finite(entry, value):
    entries = [torch.tensor(1.0)] * 3
    assert Gram(*entries).is_finite()
    entries[entry] = torch.tensor(value)
    assert not Gram(*entries).is_finite()


# --- buckets of the average over ranks


def test_buckets_are_filled_in_order_up_to_their_size(monkeypatch):
    monkeypatch.setattr(gram_module, "BUCKET_BYTES", 40)
    grads = [torch.zeros(size) for size in (4, 6, 1, 20, 2)]
    assert [[g.numel() for g in bucket] for bucket in gram_module._buckets(grads)] == [[4, 6], [1], [20], [2]]


def test_buckets_hold_one_dtype():
    grads = [torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2)]
    assert [len(bucket) for bucket in gram_module._buckets(grads)] == [2, 1, 1]


def test_no_gradients_make_no_bucket():
    assert list(gram_module._buckets([])) == []


def test_a_bucket_is_averaged_in_place(monkeypatch):
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda tensor: tensor.mul_(6)
    )  # as if other ranks had 5 times
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    grads = [torch.ones(2, 3), torch.full((4,), 2.0)]
    gram_module._average_bucket(grads)
    gram_module._average_bucket(grads[1:])
    assert grads[0].eq(2).all()
    assert grads[1].eq(8).all()
    assert grads[0].shape == (2, 3)
