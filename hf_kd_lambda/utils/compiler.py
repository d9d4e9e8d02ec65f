"""Compiled code that allows two backward passes through one graph."""

import torch
import torch._functorch.config as functorch
import torch.compiler.config as compiler

_TAG = " without donated buffers"


def allow_two_backwards() -> None:
    """Have the backward passes of compiled code leave what they read as it is, for a second one.

    Without it they write into these buffers. What is compiled already, in this process or in the compiler's cache on
    disk, is compiled once more: the cache does not tell the two kinds apart, and the gradients would be wrong.
    """
    if functorch.donated_buffer:
        functorch.donated_buffer = False
        compiler.cache_key_tag += _TAG
        torch.compiler.reset()
