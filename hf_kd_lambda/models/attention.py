"""Attention maps before dropout.

Models return maps after dropout, which are not distributions: dropped entries are 0, and all others are too large.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import logging

from hf_kd_lambda.utils.evaluation_mode import evaluation_mode

logger = logging.get_logger(__name__)

UNDROPPED = "eager_undropped_maps"
ROW_ROUNDING = 0.02  # of the sum of a row in bf16; dropout changes it by more


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
    model = unwrap_peft_model(model)
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"kd_losses: attention maps need a model of Transformers, and the {who} is a plain module.")
    used = model.config._attn_implementation
    if used not in ("eager", UNDROPPED):
        logger.warning(
            f"kd_losses: the {who}'s attn_implementation={used!r} returns no attention maps: using eager instead."
        )
        model.set_attn_implementation("eager")


def use_undropped_maps(student: PreTrainedModel) -> None:
    """Make a model with eager attention return its maps before dropout, also in training, if it can."""
    if not student.config.output_attentions:  # a config with output_attentions can only be saved with "eager"
        student.set_attn_implementation(UNDROPPED)


@torch.no_grad()
def check_undropped_maps(student: PreTrainedModel, inputs: Mapping[str, Any], maps: Sequence[Tensor]) -> None:
    """Check that the rows of a student's maps have the same sums in training as in evaluation.

    Args:
        student: unchanged; nor do the global random numbers change.
        inputs: any examples, on the student's device.
        maps: the student's for them in evaluation.

    Raises:
        ValueError: the model has its own implementation of attention, with dropout.
    """
    if student.config._attn_implementation == UNDROPPED:
        return
    with evaluation_mode(student), torch.random.fork_rng():
        for module in student.modules():
            module.training = not isinstance(module, nn.modules.batchnorm._BatchNorm)  # which would count the batch
        trained = student(**inputs, output_attentions=True).attentions
    pairs = zip(trained, maps, strict=True)
    if any(
        (one.cpu().float().sum(-1) - other.cpu().float().sum(-1)).abs().max() > ROW_ROUNDING for one, other in pairs
    ):
        fields = [f"{name}={value}" for name, value in student.config.to_dict().items() if "drop" in name and value]
        raise ValueError(
            f"kd_losses: the student, a {type(unwrap_peft_model(student)).__name__}, returns its attention maps after "
            f"dropout: load the student with 0 for that of attention, among {', '.join(fields)}."
        )
