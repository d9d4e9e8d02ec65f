"""Log-probabilities from logits that may exclude classes by −∞.

A model excludes a class by giving it the logit −∞, as a mask does. Every loss of distributions treats it alike:

- Where both models exclude a class, it adds nothing: the loss is that of the remaining classes.
- Where one model gives probability to a class that the other excludes, a divergence may be infinite. The excluded
  class then counts as having fp32's smallest normal probability, `EXCLUDED` in nats. The loss is large but finite. No
  gradient flows into the excluded logit, and the other logits still learn the classes that both models have.

An item whose classes are all excluded has no distribution: its loss is NaN, as is that of a logit of NaN or +∞.
"""

import math

import torch
from torch import Tensor

EXCLUDED = math.log(torch.finfo(torch.float32).tiny)
"""What the log-probability of an excluded class counts as: −87.3."""


def log_distribution(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, `EXCLUDED` where the logit is −∞; NaN stays NaN.

    Args:
        logits: `[..., classes]` in fp32.
    """
    return logits.log_softmax(-1).nan_to_num(nan=math.nan, posinf=math.inf, neginf=EXCLUDED)


def squared_distance_from_uniform(logits: Tensor) -> Tensor:
    """(K·Σp² − 1)/(K − 1) `[...]` of a distribution p over K classes: 0 if it is uniform, 1 if one class is certain.

    Classes with a logit of −∞ do not count. It is 1 where there is one class, and where there is one output.

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
    return (~logits.isneginf()).sum(-1)
