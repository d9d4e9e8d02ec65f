"""Models that are not in fp32 on one device: in half precision, quantised, or placed on several devices."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

HALF_DTYPES = (torch.bfloat16, torch.float16)


def is_quantised(model: nn.Module) -> bool:
    """Whether weights are quantised, by torch, torchao or bitsandbytes."""
    return any(_has_quantised(module) for module in model.modules())


def is_placed(model: nn.Module) -> bool:
    """Whether Accelerate placed parts of a model on several devices (`device_map`), so that it cannot be moved."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def read_in_own_precision(model: nn.Module) -> None:
    """Make a model in half precision cast its inputs, which examples bring in fp32; others stay as they are."""
    dtypes = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    casts = _cast_inputs in model._forward_pre_hooks.values()
    if next(dtypes, None) in HALF_DTYPES and not casts:
        model.register_forward_pre_hook(_cast_inputs, with_kwargs=True)


def _cast_inputs(model: nn.Module, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> tuple[Any, Any]:
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return args, {name: _cast(value, dtype) for name, value in inputs.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _has_quantised(module: nn.Module) -> bool:
    if ".nn.quantized" in type(module).__module__ or type(module).__module__.startswith("bitsandbytes."):
        return True
    return any(
        is_traceable_wrapper_subclass(w) and not isinstance(w, DTensor) for w in module.parameters(recurse=False)
    )
