"""Learned projections of the student's hidden states to the teacher's width; they are dropped after training."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_kd_lambda.losses.base import PROJECTED
from hf_kd_lambda.models.intermediate_outputs import with_more

KD_PROJECTIONS = "kd_projections"
"""Name of the student's submodule with the projections."""


def drop_projections(student: nn.Module) -> None:
    """Remove the projections that an earlier trainer added to a student."""
    if hasattr(student, KD_PROJECTIONS):
        delattr(student, KD_PROJECTIONS)


def add_projections(
    student: nn.Module, pairs: Iterable[tuple[int, int]], states: Sequence[Tensor], teacher_states: Sequence[Tensor]
) -> None:
    """Make a student also return hidden states projected to the teacher's width (FitNets, PKD, TinyBERT).

    Tokens are projected by a linear layer, feature maps by a 1 × 1 convolution. These layers are submodules of the
    student, so they are wrapped, optimised, all-reduced and checkpointed with it.

    Args:
        student: a student without projections.
        pairs: pairs of indices of hidden states, (student, teacher).
        states, teacher_states: hidden states of any batch, `[examples, length, width]` or `[examples, channels,
            height, width]`.

    Raises:
        ValueError: a hidden state of the student is mapped to two widths.
    """
    layers: dict[str, nn.Module] = {}
    targets: dict[int, int] = {}
    for index, other in pairs:
        dim = 1 if states[index].dim() == 4 else -1
        width, target = states[index].shape[dim], teacher_states[other].shape[dim]
        if targets.setdefault(index, target) != target:
            raise ValueError(
                f"kd_losses: hidden state {index} of the student is mapped to two hidden states of the teacher with "
                f"different widths, {targets[index]} and {target}: map it to one of them."
            )
        if width != target:
            layers[str(index)] = nn.Conv2d(width, target, 1) if dim == 1 else nn.Linear(width, target)
    if layers:
        like = next(student.parameters())
        student.add_module(KD_PROJECTIONS, nn.ModuleDict(layers).to(like.device, like.dtype))
        student.register_forward_hook(_project)


def _project(student: nn.Module, args: Any, outputs: ModelOutput) -> ModelOutput:
    layers = getattr(student, KD_PROJECTIONS, None)
    states = outputs.get("hidden_states")
    if layers is not None and states is not None:
        projected = (layers[str(i)](state) if str(i) in layers else state for i, state in enumerate(states))
        return with_more(outputs, {PROJECTED: tuple(projected)})
    return outputs


@contextlib.contextmanager
def left_out(student: nn.Module) -> Iterator[None]:
    """Within this context, the student has no projections."""
    layers = getattr(student, KD_PROJECTIONS, None)
    if layers is None:
        yield
        return
    delattr(student, KD_PROJECTIONS)
    try:
        yield
    finally:
        student.add_module(KD_PROJECTIONS, layers)


def is_projection(name: str) -> bool:
    """Whether a parameter name, possibly with prefixes of wrappers, belongs to a projection."""
    return f"{KD_PROJECTIONS}." in name
