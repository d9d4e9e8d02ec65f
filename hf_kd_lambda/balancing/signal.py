"""The signal part of a Gram matrix, without batch noise."""

from typing import NamedTuple

import torch
from torch import Tensor

from hf_kd_lambda.gradients.gram import Gram

LEAST_SHARE = 0.01  # lower bound of the signal share, because its estimate is noisy and may be negative


class Signal(NamedTuple):
    """A Gram matrix without noise, and the share of signal."""

    gram: Gram
    """Entries `[]` or `[groups]`."""
    share: Tensor
    """`[2]` or `[2, groups]`: signal/(signal + noise) of a and b, in (0, 1]."""


def bounded_signal(unbiased: Gram, norms: Tensor) -> Signal:
    """Bound an unbiased estimate, or a mean of estimates, to a valid Gram matrix: 0 < a, b ≤ measured, |c| ≤ √(ab).

    Args:
        unbiased: the result of `SampledGradientPair.unbiased`, or a mean of results.
        norms: `[2]` or `[2, groups]`, the measured a and b with noise, or means of such.
    """
    share = torch.stack([unbiased.task, unbiased.kd]) / norms.clamp(min=torch.finfo(norms.dtype).tiny)
    share = share.clamp(LEAST_SHARE, 1.0)
    task, kd = share * norms
    largest = task.sqrt() * kd.sqrt()
    return Signal(Gram(task, kd, unbiased.dot.clamp(-largest, largest)), share)
