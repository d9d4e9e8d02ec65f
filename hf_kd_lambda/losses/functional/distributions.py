"""Log-probabilities from logits in which −∞ excludes a class.

A model excludes a class with a logit of −∞, as a mask does. All losses on distributions treat this in the same way:

- If both models exclude a class, the loss is that of the remaining classes.
- If only one model excludes a class, a divergence may be infinite. The excluded class then gets the smallest normal
  probability of fp32, whose logarithm is `EXCLUDED`. The loss is large but finite. The excluded logit has no gradient,
  and the other logits still learn from the classes that both models have.

If all classes of an item are excluded, its loss is NaN. It is also NaN if a logit is NaN or +∞.
"""

import math

import torch
from torch import Tensor

EXCLUDED = math.log(torch.finfo(torch.float32).tiny)
"""Log-probability in nats that an excluded class gets: −87.3."""
LEAST_DISTANCE = 0.01
"""Mean squared distance from the uniform distribution below which a teacher says hardly anything about the classes."""


def log_distribution(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, `EXCLUDED` where the logit is −∞; NaN stays NaN.

    Args:
        logits: `[..., classes]` in fp32.
    """
    return logits.log_softmax(-1).nan_to_num(nan=math.nan, posinf=math.inf, neginf=EXCLUDED)


def squared_distance_from_uniform(logits: Tensor) -> Tensor:
    """(K·Σp² − 1)/(K − 1) `[...]` of a distribution p over K classes: 0 if p is uniform, 1 if one class is certain.

    Classes with a logit of −∞ are ignored. It is 1 for a single class, and for a single output.

    Args:
        logits: `[..., K]`.
    """
    if logits.shape[-1] == 1:
        return torch.ones_like(logits[..., 0])
    classes = possible_classes(logits)
    distance = (classes * logits.softmax(-1).square().sum(-1) - 1) / (classes - 1)
    return torch.where(classes > 1, distance.clamp(min=0.0), 1.0)


def possible_classes(logits: Tensor) -> Tensor:
    """Number of classes that are not excluded by a logit of −∞, `[...]`.

    Args:
        logits: `[..., classes]`.
    """
    return logits.shape[-1] - logits.isneginf().sum(-1, dtype=torch.int32)
