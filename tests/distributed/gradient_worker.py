"""One rank of two: gradients of two micro-batches a rank, measured together, against dense ones of all four."""

import torch
import torch.distributed as dist
from helpers.process_group import leave_group
from helpers.two_heads import TwoHeads, accumulate, expected_gradients, two_losses
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from hf_kd_lambda.gradients.adam_metric import AdamMetric
from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.gradients.pair import GradientPair
from hf_kd_lambda.gradients.sampled import SampledGradientPair

GROUPS = [1, 1, 0, 0, 0, 0, 2, 2]
SETTINGS = {"betas": (0.5, 0.9), "eps": 1e-3, "lr": 0.01}


def dense_grams(samples, scales) -> tuple[torch.Tensor, torch.Tensor]:
    """The Gram matrix of the sum of the samples' gradients, and the unbiased one, both (3, groups) in fp64."""
    total, own = torch.zeros(2, 3, 3, dtype=torch.float64)
    for products, gradients in [(own, sample) for sample in samples] + [(total, [sum_of(samples, i) for i in (0, 1)])]:
        for task, kd, scale, group in zip(*gradients, scales, GROUPS, strict=True):
            t, k, p = task.double(), kd.double(), scale.double()
            products[:, group] += torch.stack([(p * t * t).sum(), (p * k * k).sum(), (p * t * k).sum()])
    return total, (total - own) * len(samples) / (len(samples) - 1)


def sum_of(samples, index: int) -> list[torch.Tensor]:
    return [sum(parts) for parts in zip(*(sample[index] for sample in samples), strict=True)]


def mean_of(samples) -> list[list[torch.Tensor]]:
    return [[grad / len(samples) for grad in sum_of(samples, index)] for index in (0, 1)]


def stepped(model: nn.Module, batch: torch.Tensor) -> AdamMetric:
    """The metric of an AdamW that has stepped once, without moving a weight."""
    optimizer = AdamW(model.parameters(), **SETTINGS)
    sum(two_losses(model(batch))).backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    optimizer.zero_grad()
    return AdamMetric(optimizer)


def check(pair: SampledGradientPair, samples, scales, expected_samples: int) -> None:
    gram = pair.gram()
    unbiased = pair.unbiased(gram)
    assert pair.samples == expected_samples == len(samples)
    for measured, expected in zip((gram, unbiased), dense_grams(samples, scales), strict=True):
        torch.testing.assert_close(torch.stack(measured).double(), expected, rtol=1e-4, atol=1e-3)
    pair.combine(torch.tensor([0.5, 2.0, 1.0]), torch.tensor([3.0, 0.25, 1.0]))
    for parameter, task, kd, group in zip(
        pair.parameters, sum_of(samples, 0), sum_of(samples, 1), GROUPS, strict=True
    ):
        assert (parameter.grad is None) == (group == 2)
        if parameter.grad is not None:
            grad = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
            torch.testing.assert_close(grad, [0.5, 2.0][group] * task + [3.0, 0.25][group] * kd)


def check_shares(rank: int) -> None:
    """Samples without noise are all signal, though one of the four has no label, and another has two."""
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    pair = SampledGradientPair([weight])
    for labelled in [[2, 1], [1, 0]][rank]:
        outputs, cut = cut_outputs({"weight": weight * 1})
        shares = torch.tensor([labelled / 2, 1 / 2])  # of four items, two for each rank
        task_loss, kd_loss = (share * outputs["weight"].square().sum() / 2 for share in shares)
        pair.accumulate(cut, task_loss, kd_loss, item_shares=shares)
    pair.average_over_ranks()
    torch.testing.assert_close(torch.stack(pair.unbiased(pair.gram())), torch.full((3,), 5.0))


def check_rows(rank: int) -> None:
    """Ranks exchange rows of embeddings; the second rank has none of the second one, and no KD loss reaches it."""
    first, second = embeddings = [nn.Parameter(torch.zeros(6, 2)) for _ in range(2)]
    rows = torch.sparse_coo_tensor([[rank, 3]], [[1.0, 2.0], [3.0, 4.0]], (6, 2), check_invariants=True)
    pair = GradientPair(embeddings)
    first.grad, pair.kd_grads[0], second.grad = rows.clone(), 2 * rows, rows.clone() if rank == 0 else None
    pair.average_over_ranks()
    assert first.grad.is_sparse
    a, b, c = pair.gram()
    means = torch.tensor([[[0.5, 1], [0.5, 1], [0, 0], [3, 4], [0, 0], [0, 0]], [[0.5, 1]] + [[0, 0]] * 5])
    means[1, 3] = torch.tensor([1.5, 2])
    for grads, expected in (((first.grad, second.grad), means), (pair.kd_grads, [2 * means[0], 0 * means[1]])):
        for grad, mean in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad.to_dense(), mean)
    expected = torch.stack([means.square().sum(), 4 * means[0].square().sum(), 2 * means[0].square().sum()])
    torch.testing.assert_close(torch.stack([a, b, c]), expected)


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    assert dist.get_world_size() == 2
    batches = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1))
    first = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    own = batches[rank::2]
    twin = TwoHeads()
    samples = [expected_gradients(twin, [batch]) for batch in batches]
    metric = stepped(twin, first)
    scales = [metric(parameter) for parameter in twin.parameters()]

    # Replicas: every micro-batch of every rank is a sample, and half as much in the average as in the rank's own sum.
    pair = accumulate(SampledGradientPair(twin.parameters(), GROUPS, metric), twin, own)
    pair.average_over_ranks()
    check(pair, [[[grad / 2 for grad in grads] for grads in sample] for sample in samples], scales, 4)

    # Shards: a sample is what both ranks' micro-batches give together.
    model = TwoHeads()
    fully_shard(model.body)
    fully_shard(model)
    metric = stepped(model, first)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    pair = accumulate(SampledGradientPair(model.parameters(), GROUPS, metric), model, own)
    check(pair, [mean_of(samples[:2]), mean_of(samples[2:])], scales, 2)

    check_rows(rank)
    check_shares(rank)
    print(f"rank {rank} agrees", flush=True)
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
