"""Would sketches of gradients be cheaper? `python -m benchmarks.sketch` measures the parts of such a measuring step.

A sketch of a linear layer's gradient δᵀX is Rᵀδᵀ X, with δ the gradient of its outputs, X its inputs and R a random
matrix of k columns with E[RRᵀ] = 1: inner products of sketches are unbiased estimates of those of gradients. The KD
loss's backward pass then needs no gradients of weights, and a single pass of the weighted sum computes the update,
with the λ of the measurement before. docs/benchmarks/cost.md explains why we do not use it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, set_seed

from hf_kd_lambda import student_from_layers
from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.gradients.pair import GradientPair
from hf_kd_lambda.gradients.sparse_embeddings import embedding_rows
from hf_kd_lambda.losses.functional import soft_target_loss, task_loss

SIZES = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_labels": 3}
BATCH, LENGTH = 32, 48


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median, after a warm-up run."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Captured:
    """Inputs and outputs of a model's linear layers, and the output of its embeddings, in its last forward."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        self.inputs: dict[nn.Module, Tensor] = {}
        self.outputs: dict[nn.Module, Tensor] = {}
        self.linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        for module in [*self.linear, model.bert.embeddings]:
            module.register_forward_hook(self._take)

    def _take(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs:
            self.inputs[module] = inputs[0].detach()
        self.outputs[module] = output


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=16, help="k, columns of R")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    set_seed(0)
    teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=6, **SIZES)).eval()
    student = student_from_layers(teacher, [0, 2, 5]).train()
    tokens, labels = torch.randint(1000, 30000, (BATCH, LENGTH)), torch.randint(0, 3, (BATCH,))
    with torch.no_grad():
        soft = teacher(input_ids=tokens).logits
    forward_seconds = seconds(lambda: student(input_ids=tokens), options.repeats)
    pair, captured = GradientPair(student.parameters()), Captured(student)
    with embedding_rows(student):
        outputs, cut = cut_outputs(student(input_ids=tokens))
    losses = task_loss(outputs.logits, labels, BATCH), soft_target_loss(outputs.logits, soft, labels, BATCH, 2.0)
    task_seeds, kd_seeds = cut.seeds(losses[0]), cut.seeds(losses[1])
    projections = {
        module: torch.randn(module.out_features, options.columns) / options.columns**0.5 for module in captured.linear
    }

    def input_gradients(seeds: tuple[Tensor | None, ...]) -> dict[nn.Module, Tensor]:
        found = torch.autograd.grad(cut.roots, list(captured.outputs.values()), seeds, retain_graph=True)
        return dict(zip(captured.outputs, found, strict=True))

    def weight_gradients(deltas: dict[nn.Module, Tensor]) -> dict[nn.Module, Tensor]:
        return {
            module: deltas[module].flatten(0, -2).T @ captured.inputs[module].flatten(0, -2)
            for module in captured.linear
        }

    def sketches(deltas: dict[nn.Module, Tensor]) -> dict[nn.Module, Tensor]:
        return weight_gradients({module: deltas[module] @ projections[module] for module in captured.linear})

    def backward() -> None:
        cut.backward(task_seeds, retain_graph=True)
        for parameter in pair.parameters:
            parameter.grad = None

    deltas = {"kd": input_gradients(kd_seeds), "task": input_gradients(task_seeds)}
    times = {
        "forward": forward_seconds,
        "backward": seconds(backward, options.repeats),
        "backward, inputs alone": seconds(lambda: input_gradients(kd_seeds), options.repeats),
        "sketches": seconds(lambda: sketches(deltas["kd"]), options.repeats),
    }
    for name, value in times.items():
        print(f"{name:24} {1e3 * value:6.1f} ms")
    task, kd = (sketches(deltas[name]) for name in ("task", "kd"))
    exact_task, exact_kd = (weight_gradients(deltas[name]) for name in ("task", "kd"))
    for name, sketched, exact in (
        ("a", (task, task), (exact_task, exact_task)),
        ("b", (kd, kd), (exact_kd, exact_kd)),
        ("c", (task, kd), (exact_task, exact_kd)),
    ):
        print(f"{name}: {inner(*sketched):.4g} by {options.columns} columns, {inner(*exact):.4g} exactly")


def inner(left: dict[nn.Module, Tensor], right: dict[nn.Module, Tensor]) -> float:
    """Inner product over all layers."""
    return sum((left[module] * right[module]).sum().item() for module in left)


if __name__ == "__main__":
    main()
