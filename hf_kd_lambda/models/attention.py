"""Attention maps before dropout.

Models return maps after dropout, which are not distributions: dropped entries are 0, and all others are too large.
"""

import sys
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.utils import logging

logger = logging.get_logger(__name__)

UNDROPPED = "eager_undropped_maps"
DROPOUT_FIELDS = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")


def undropped_maps(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Eager attention with dropout that returns the maps before dropout.

    Arguments as in Transformers' `AttentionInterface`; all tensors are `[examples, heads, length, width]`.

    Returns:
        (attention output, maps `[examples, heads, length, length]`).
    """
    eager = sys.modules[type(module).__module__].eager_attention_forward
    output, maps = eager(module, query, key, value, attention_mask, dropout=dropout, **kwargs)
    if dropout:
        _, maps = eager(module, query, key, value, attention_mask, dropout=0.0, **kwargs)
    return output, maps


AttentionInterface.register(UNDROPPED, undropped_maps)
AttentionMaskInterface.register(UNDROPPED, eager_mask)


def use_eager_attention(model: nn.Module, who: str) -> None:
    """Set a model's attention to the eager implementation, the only one that returns maps.

    Args:
        model: teacher or student.
        who: `teacher` or `student`, for messages.

    Raises:
        ValueError: a plain module, whose attention cannot be switched.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"kd_losses: attention maps need a model of Transformers, and the {who} is a plain module.")
    used = model.config._attn_implementation
    if used not in ("eager", UNDROPPED):
        logger.warning(
            f"kd_losses: the {who}'s attn_implementation={used!r} returns no attention maps: using eager instead."
        )
        model.set_attn_implementation("eager")


def use_undropped_maps(student: PreTrainedModel) -> None:
    """Make a model with eager attention return its maps before dropout, also in training.

    Raises:
        ValueError: the model has its own implementation of attention, with dropout.
    """
    config = student.config
    if not config.output_attentions:  # a config with output_attentions can only be saved with "eager"
        student.set_attn_implementation(UNDROPPED)
    if config._attn_implementation == UNDROPPED:
        return
    for name in DROPOUT_FIELDS:
        if dropout := getattr(config, name, 0.0):
            raise ValueError(
                f"kd_losses: the student, a {type(student).__name__}, returns its attention maps after dropout "
                f"({name}={dropout}): load the student with {name}=0.0."
            )
