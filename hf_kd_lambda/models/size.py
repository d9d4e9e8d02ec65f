"""The size of a model, from its configuration alone."""

from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_kd_lambda.utils.hardware import memory

MOST_LAYERS = 2000  # twice as many as the deepest networks that were published


def check_size(config: PreTrainedConfig, auto_class: Any, **options: Any) -> None:
    """Check that the machine's memory holds a model, without building it.

    Args:
        config: the model's configuration.
        auto_class: Transformers' auto class for the task.
        options: options of its `from_config`.

    Raises:
        ValueError: it does not; the message has the size of the weights and of the memory.
    """
    check_depth(config)
    try:
        with torch.device("meta"):
            weights = list(auto_class.from_config(config, **options).parameters())
    except RuntimeError as error:  # a negative size, or one that does not fit into 64 bits
        raise ValueError(f"the sizes in its configuration are impossible ({error}): reduce them.") from None
    needed, there = sum(weight.numel() * weight.element_size() for weight in weights), memory()
    if needed > there:
        raise ValueError(
            f"its weights need {needed / 1e9:,.0f} GB, but this machine has {there / 1e9:,.0f} GB of memory: use a "
            "smaller model."
        )


def check_depth(config: PreTrainedConfig) -> None:
    """Check that a model has a possible number of layers, which would otherwise be built one by one without end.

    Raises:
        ValueError: it has more than `MOST_LAYERS`.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise ValueError(f"num_hidden_layers={layers} is more than {MOST_LAYERS}: reduce it.")
