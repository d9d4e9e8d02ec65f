"""Learned projections of the student's hidden states to the teacher's width, trained and thrown away with KD."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_kd_lambda.losses.base import PROJECTED
from hf_kd_lambda.models.intermediate_outputs import with_more

NAME = "kd_projections"


def drop_projections(student: nn.Module) -> None:
    """Take from a student what an earlier trainer gave it."""
    if hasattr(student, NAME):
        delattr(student, NAME)


def add_projections(
    student: nn.Module, pairs: Iterable[tuple[int, int]], states: Sequence[Tensor], teacher_states: Sequence[Tensor]
) -> None:
    """Have a student put out some of its hidden states in the teacher's width, too (FitNets, PKD, TinyBERT).

    Tokens go through a linear layer, feature maps through a 1 × 1 convolution, which are parts of the student, so that
    whatever wraps, optimises, averages or checkpoints it does so with them.

    Args:
        student: without projections so far.
        pairs: of hidden states of student and teacher.
        states, teacher_states: of any batch: `[examples, length, width]` or `[examples, channels, height, width]`.

    Raises:
        ValueError: one of the student's is to have two widths.
    """
    layers: dict[str, nn.Module] = {}
    wanted: dict[int, int] = {}
    for index, other in pairs:
        dim = 1 if states[index].dim() == 4 else -1
        width, target = states[index].shape[dim], teacher_states[other].shape[dim]
        if wanted.setdefault(index, target) != target:
            raise ValueError(
                f"kd_losses: hidden state {index} of the student is to have the widths {wanted[index]} and {target} "
                "of two hidden states of the teacher: map it to one."
            )
        if width != target:
            layers[str(index)] = nn.Conv2d(width, target, 1) if dim == 1 else nn.Linear(width, target)
    if layers:
        like = next(student.parameters())
        student.add_module(NAME, nn.ModuleDict(layers).to(like.device, like.dtype))
        student.register_forward_hook(_project)


def _project(student: nn.Module, args: Any, outputs: ModelOutput) -> ModelOutput:
    layers = getattr(student, NAME, None)
    states = outputs.get("hidden_states")
    if layers is not None and states is not None:
        projected = (layers[str(i)](state) if str(i) in layers else state for i, state in enumerate(states))
        return with_more(outputs, {PROJECTED: tuple(projected)})
    return outputs


@contextlib.contextmanager
def left_out(student: nn.Module) -> Iterator[None]:
    """In this context the student is as its user wants it, without projections."""
    layers = getattr(student, NAME, None)
    if layers is None:
        yield
        return
    delattr(student, NAME)
    try:
        yield
    finally:
        student.add_module(NAME, layers)


def is_projection(name: str) -> bool:
    """Whether a parameter, by its name in a student that may be wrapped, is of a projection."""
    return f"{NAME}." in name
