"""The part of a Gram matrix that is signal, not noise of the batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.gradients.gram import Gram

LEAST_SHARE = 0.01  # of signal: its estimate is noisy too, and may fall below zero


class Signal(NamedTuple):
    """What is not noise in a Gram matrix."""

    gram: Gram
    """Entries of shape () or (groups,)."""
    share: Tensor
    """(2,) or (2, groups): signal/(signal + noise) of the task and the KD gradient's square, in (0, 1]."""


def bounded_signal(unbiased: Gram, gram: Gram) -> Signal:
    """Make an unbiased estimate, or a mean of such, a Gram matrix: a, b > 0 and no more than measured, |c| ≤ √(ab).

    Args:
        unbiased: as `SampledGradientPair.unbiased` returns it.
        gram: the same with noise, or the mean of such.
    """
    measured = torch.stack([gram.task, gram.kd])
    smallest = torch.finfo(measured.dtype).tiny
    share = torch.stack([unbiased.task, unbiased.kd]) / measured.clamp(min=smallest)
    share = share.clamp(LEAST_SHARE, 1.0)
    task, kd = share * measured
    largest = task.sqrt() * kd.sqrt()
    return Signal(Gram(task, kd, unbiased.dot.clamp(-largest, largest)), share)
