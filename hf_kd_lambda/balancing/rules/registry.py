"""Rules by their names in settings."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor

from hf_kd_lambda.balancing.rules.base import Rule
from hf_kd_lambda.balancing.rules.common_descent import MGDA, AlignedMTL, CAGrad, DualProj, PCGrad, UPGrad
from hf_kd_lambda.balancing.rules.norm_based import (
    IMTLG,
    SNR,
    Adaptive,
    ConFIG,
    Evidence,
    GradNorm,
    Nash,
    NormRatio,
    Trust,
)
from hf_kd_lambda.balancing.rules.schedules import Cosine, Fixed, Linear, Step
from hf_kd_lambda.balancing.rules.task_first import DTO, CosineGate, Taylor2
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.utils.names import check_known

RULES: dict[str, type[Rule]] = {
    "fixed": Fixed,
    "linear": Linear,
    "cosine": Cosine,
    "step": Step,
    "norm_ratio": NormRatio,
    "adaptive": Adaptive,
    "mgda": MGDA,
    "pcgrad": PCGrad,
    "cagrad": CAGrad,
    "imtl_g": IMTLG,
    "nash": Nash,
    "config": ConFIG,
    "upgrad": UPGrad,
    "dual_proj": DualProj,
    "aligned_mtl": AlignedMTL,
    "gradnorm": GradNorm,
    "cosine_gate": CosineGate,
    "dto": DTO,
    "taylor2": Taylor2,
    "snr": SNR,
    "evidence": Evidence,
    "trust": Trust,
}


def make_rule(name: str, hyper: Mapping[str, Any]) -> Rule:
    """A rule by its name, with the given hyper-parameters and defaults for the others.

    Raises:
        ValueError: the rule or a hyper-parameter is unknown (the message suggests the closest name), or a
            hyper-parameter has the wrong type or is out of range.
    """
    check_known(name, RULES, "rule")
    rule = RULES[name]
    defaults = {field.name: field.default for field in fields(rule)}
    for key, value in hyper.items():
        check_known(key, defaults, f"setting of rule {name!r}:")
        _check_type(key, value, defaults[key])
    return rule(**hyper)


@overload
def rule_weights(name: str, a: float, b: float, c: float, **hyper: Any) -> tuple[float, float]: ...
@overload
def rule_weights(name: str, a: Tensor, b: Tensor, c: Tensor, **hyper: Any) -> tuple[Tensor, Tensor]: ...
def rule_weights(
    name: str, a: Tensor | float, b: Tensor | float, c: Tensor | float, **hyper: Any
) -> tuple[Tensor, Tensor] | tuple[float, float]:
    """The weights (w_task, w_kd) of a rule, as published and not normalised.

    Training sets negative weights (of `aligned_mtl`) to 0 and scales the weights with `loss_weights`.

    Args:
        name: name of a rule in `RULES`.
        a: |g_task|², a float or a tensor of any shape, like b and c.
        b: |g_kd|².
        c: <g_task, g_kd>.
        hyper: the rule's hyper-parameters, and its further inputs (`needs`) as floats, sequences or tensors, for
            example `losses=(0.7, 0.4)`.

    Returns:
        Floats for floats, computed in fp64; otherwise tensors. NaN if a, b or c is not finite, or a or b is negative.

    Raises:
        ValueError: the rule or a keyword is unknown (the message suggests the closest name), or a keyword is missing,
            has the wrong type or is out of range.
    """
    check_known(name, RULES, "rule")
    needs = RULES[name].needs
    for key in hyper:
        check_known(key, [field.name for field in fields(RULES[name])] + list(needs), f"keyword of rule {name!r}:")
    if missing := [need for need in needs if need not in hyper]:
        raise ValueError(f"rule {name!r} needs {' and '.join(missing)} in addition to a, b and c.")
    rule = make_rule(name, {key: value for key, value in hyper.items() if key not in needs})

    tensor = next((entry for entry in (a, b, c) if isinstance(entry, Tensor)), None)
    like = torch.zeros((), dtype=torch.float64) if tensor is None else tensor
    to_tensor = partial(torch.as_tensor, dtype=like.dtype, device=like.device)
    gram = Gram(*torch.broadcast_tensors(*map(to_tensor, (a, b, c))))
    weights = rule.weights(gram, **{need: to_tensor(hyper[need]) for need in needs})
    valid = gram.task.isfinite() & gram.kd.isfinite() & gram.dot.isfinite() & (gram.task >= 0) & (gram.kd >= 0)
    task, kd = (torch.where(valid, weight, torch.nan) for weight in weights)
    return (task, kd) if tensor is not None else (task.item(), kd.item())


def _check_type(name: str, value: object, default: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number if isinstance(default, float) else type(value) is type(default)):
        raise ValueError(f"{name}={value!r} must be a {type(default).__name__}, like its default {default!r}.")
