"""The first of a model's outputs."""

from typing import TypeVar

Output = TypeVar("Output")


def first_output(outputs: Output | tuple[Output, ...]) -> Output:
    """The logits: a model set to return more, say its hidden states, has them first in a tuple."""
    return outputs[0] if isinstance(outputs, tuple) else outputs
