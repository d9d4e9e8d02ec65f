"""Two gradients of one forward: how they are taken, averaged, measured and combined."""

import contextlib
from collections import Counter

import pytest
import torch
from helpers.two_heads import TwoHeads, accumulate, expected_gradients, two_losses
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.gradients.gram import Gram, gram_matrix
from hf_kd_lambda.gradients.pair import GradientPair
from hf_kd_lambda.gradients.sparse_embeddings import embedding_rows


def accumulated(model, batches, groups=None, metric=None):
    return accumulate(GradientPair(model.parameters(), groups, metric), model, batches)


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


# --- the Gram matrix


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


def test_cosine_of_the_gradients():
    assert Gram(torch.tensor(4.0), torch.tensor(9.0), torch.tensor(-3.0)).cosine.item() == -0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("entry", range(3))
def test_one_bad_entry_makes_the_gram_matrix_non_finite(entry, value):
    entries = [torch.tensor(1.0)] * 3
    assert Gram(*entries).is_finite()
    entries[entry] = torch.tensor(value)
    assert not Gram(*entries).is_finite()


# --- embeddings' gradients as rows


class Tagger(nn.Module):
    """An embedding, frozen or trained, of which the second head's loss may see tokens of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(50, 4)
        self.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

    def forward(self, tokens, others=None):
        hidden = [self.embedding(each).mean(1) for each in (tokens, tokens if others is None else others)]
        first, second = (head(each) for head, each in zip(self.heads, hidden, strict=True))
        return SequenceClassifierOutput(logits=first, hidden_states=(second,))


def tagger_pair(batches, rows):
    model = Tagger()
    pair = GradientPair(model.parameters())
    with embedding_rows(model) if rows else contextlib.nullcontext():
        for batch in batches:
            outputs, cut = cut_outputs(model(*batch))
            pair.accumulate(cut, outputs.logits.square().sum(), outputs.hidden_states[0].sin().sum())
    return model, pair


TOKENS = torch.tensor([[1, 2, 2], [3, 1, 0]])
OTHERS = torch.tensor([[1, 7, 7], [8, 9, 0]])


@pytest.mark.parametrize(
    "batches",
    [[(TOKENS,)], [(TOKENS,), (OTHERS,)], [(TOKENS, OTHERS)]],
    ids=["one batch", "accumulated", "other tokens for each loss"],
)
def test_rows_have_the_gram_matrix_and_the_sum_of_dense_gradients(batches):
    (dense_model, dense), (rows_model, rows) = tagger_pair(batches, rows=False), tagger_pair(batches, rows=True)
    assert rows_model.embedding.weight.grad.is_sparse
    torch.testing.assert_close(rows.gram(), dense.gram())
    weights = torch.tensor(0.3), torch.tensor(0.7)
    torch.testing.assert_close(rows.combined_norm(*weights), dense.combined_norm(*weights))
    for pair in (dense, rows):
        pair.combine(*weights)
    for found, expected in zip(rows_model.parameters(), dense_model.parameters(), strict=True):
        assert not found.grad.is_sparse
        torch.testing.assert_close(found.grad, expected.grad)


def test_a_loss_that_reaches_no_embedding_adds_nothing_to_its_rows():
    model = Tagger()
    pair = GradientPair(model.parameters())
    with embedding_rows(model):
        outputs, cut = cut_outputs(model(TOKENS))
        pair.accumulate(cut, outputs.logits.sum(), outputs.hidden_states[0].sum())
    pair.kd_grads[0] = None  # as if the KD loss had not
    gram = pair.gram()
    assert gram.is_finite()
    pair.combine(torch.tensor(1.0), torch.tensor(1.0))
    assert not model.embedding.weight.grad.is_sparse


def test_rows_are_for_the_measuring_step_alone():
    model = Tagger()
    already_sparse = nn.Embedding(5, 4, sparse=True)
    model.extra = already_sparse

    def fail_within():
        with embedding_rows(model):
            assert model.embedding.sparse
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within()
    assert not model.embedding.sparse
    assert already_sparse.sparse
