"""The mean of a student's predictions on an example, over all passes over the data so far."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hf_kd_lambda.balancing.judge import TINY


class PastPredictions:
    """Remembers the student's predictions on each training example.

    In the second pass over the data, a student has been trained on all examples, and its present predictions follow
    labels and soft targets that it has memorised. Its earlier ones do so less, and the mean of all is less noisy
    (temporal ensembling, Laine & Aila 2017, https://arxiv.org/abs/1610.02242).

    Every rank sees other examples in a pass, so the predictions of a pass are added to those of earlier ones when it
    has ended, or when a checkpoint is saved. An example that appears twice in a pass counts twice from then on: with
    several ranks, Accelerate repeats a few examples to fill the last batches.

    Attributes:
        past: `[examples, K + 1]`: the sum of the probabilities of K classes and the number of predictions in them; of
            passes that have ended, the same on all ranks.
        present: the same of the present pass, on this rank alone.

    Args:
        examples: how many there are.
        classes: K.
        device: that of the logits.
    """

    def __init__(self, examples: int, classes: int, device: torch.device) -> None:
        self.past = torch.zeros(examples, classes + 1, device=device)
        self.present = torch.zeros_like(self.past)

    def mean(self, rows: Tensor, logits: Tensor) -> Tensor:
        """Logits of the mean of past and present predictions. The present ones are remembered.

        Args:
            rows: positions of the examples in the data, integers `[batch]`.
            logits: the student's present ones, `[batch, K]`; −∞ excludes a class. An example with NaN or +∞ is not
                remembered.
        """
        probabilities = logits.float().softmax(-1)
        usable = probabilities.isfinite().all(-1, keepdim=True)
        seen = torch.where(usable, torch.cat([probabilities, torch.ones_like(usable, dtype=torch.float32)], -1), 0.0)
        self.present.index_add_(0, rows, seen)
        return mean_logits(self.past[rows] + seen).masked_fill(logits.isneginf(), -math.inf)

    def end_pass(self, sum_over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Add the predictions of the present pass, or of its part until now, to the earlier ones.

        Args:
            sum_over_ranks: all-reduces a tensor to its sum over ranks.
        """
        self.past += sum_over_ranks(self.present)
        self.present.zero_()


def size_of(examples: int, classes: int) -> int:
    """Bytes of `PastPredictions.past`, which is fp32."""
    return 4 * examples * (classes + 1)


def mean_logits(sums: Tensor) -> Tensor:
    """Logits of the mean of predictions, `[..., K]`; NaN where there is none.

    Args:
        sums: see `PastPredictions.past`, `[..., K + 1]`.
    """
    return (sums[..., :-1] / sums[..., -1:]).clamp(min=TINY).log()
