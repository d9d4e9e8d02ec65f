"""Losses of tokens for large vocabularies, where a second copy of the logits would not fit into memory.

Logits are cut into chunks of positions, and the backward pass computes each chunk again: probabilities of the size of
the vocabulary exist for one chunk at a time. Padding is masked like every other position that is no item, by the label
-100.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_kd_lambda.losses.functional.distributions import log_distribution
from hf_kd_lambda.losses.functional.items import IGNORED, sum_over_items, zero_ignored

CHUNK_LOGITS = 2**23  # 34 MB in fp32, five such tensors alive at once: 65 positions of a vocabulary of 128,000


def token_top_kl_loss(
    student_logits: Tensor,
    top_log_probs: Tensor,
    top_indices: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    temperature: float,
    chunk_size: int | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """T²·KL(teacher ‖ student) over the teacher's k largest classes and one more, the tail: the mass of all others.

    A lower bound of `soft_target_loss`, by the data-processing inequality: merging classes cannot make distributions
    easier to tell apart. It is 0 where the student has the k probabilities right, whatever is in the tail.
    Log-probabilities cached in fp16 are off by up to 1/2048 of their value, which makes the tail's mass inaccurate.

    Logits of −∞ exclude a class, see `distributions`. Where the student has no class in the tail, the teacher's mass
    there is left out: it cannot be told from rounding.

    Args:
        student_logits: `[examples, length, vocabulary]`.
        top_log_probs: `[examples, length, k]`, the teacher's k largest at temperature T.
        top_indices: `[examples, length, k]`, their tokens.
        labels: `[examples, length]`; positions labelled -100 do not count.
        num_items: what the sum over items is divided by.
        temperature: T > 0.
        chunk_size: positions at a time. Default: as many as have 2²³ logits.
        weights: of the items, of the labels' shape; None for 1.

    Returns:
        A scalar in fp32.
    """

    def loss(student: Tensor, log_probs: Tensor, indices: Tensor, weights: Tensor | None, labels: Tensor) -> Tensor:
        indices = indices.long().masked_fill(labels.eq(IGNORED).unsqueeze(-1), 0)
        log_student, has_no_tail = _log_top_and_tail(zero_ignored(student, labels) / temperature, indices)
        top = zero_ignored(log_probs, labels).exp()
        tail = (1 - top.sum(-1, keepdim=True)).clamp(min=0).masked_fill(has_no_tail, 0.0)
        teacher = F.normalize(torch.cat([top, tail], dim=-1), p=1, dim=-1)  # rounded values may sum to more than 1
        divergence = F.kl_div(log_student, teacher, reduction="none").sum(-1)
        return temperature**2 * sum_over_items(divergence, labels, weights) / num_items

    return sum_over_chunks(loss, (student_logits, top_log_probs, top_indices, weights), labels, chunk_size)


def sum_over_chunks(
    loss: Callable[..., Tensor], tensors: tuple[Tensor | None, ...], labels: Tensor, chunk_size: int | None = None
) -> Tensor:
    """A sum over items, such as a loss: for tokens chunk by chunk, for whole examples all at once.

    Args:
        loss: takes the tensors `[items, ...]` and the labels `[items]` of a chunk, and returns numbers `[...]`.
        tensors: each `[examples, (length,) ...]`, or None, which every chunk gets; logits are the first.
        labels: `[examples, (length)]`.
        chunk_size: positions at a time. Default: as many as have 2²³ logits.

    Returns:
        A scalar, or `[...]`.
    """
    if labels.dim() == 1:
        return loss(*tensors, labels)
    return torch.stack(
        [
            checkpoint(loss, *chunk, use_reentrant=False, preserve_rng_state=False)
            for chunk in chunks(tensors, labels, chunk_size)
        ]
    ).sum(dim=0)


def chunks(
    tensors: tuple[Tensor | None, ...], labels: Tensor, chunk_size: int | None = None
) -> Iterable[tuple[Any, ...]]:
    """Tensors and labels of some positions at a time, as `[items, ...]`; of whole examples all at once.

    Args:
        tensors, labels, chunk_size: see `sum_over_chunks`.
    """
    if labels.dim() == 1:
        return [(*tensors, labels)]
    size = chunk_size or max(1, CHUNK_LOGITS // cast(Tensor, tensors[0]).shape[-1])
    # `split` has one backward for all chunks; that of a slice would make a gradient of all logits for every chunk.
    last = labels.flatten(0, 1).split(size)
    others = ([None] * len(last) if values is None else values.flatten(0, 1).split(size) for values in tensors)
    return zip(*others, last, strict=True)


def _log_top_and_tail(logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the classes `[positions, k]`, then of all others together: `[positions, k + 1]`.

    Also whether there are no others, `[positions, 1]`: k is the whole vocabulary, or the logits exclude the rest.
    """
    lowest = torch.finfo(logits.dtype).min  # not −∞: the logsumexp of nothing but −∞ has a gradient of NaN
    rest = logits.scatter(-1, indices, lowest).logsumexp(-1, keepdim=True)
    has_no_tail = rest < lowest / 2
    rest = rest.masked_fill(has_no_tail, -math.inf)
    return log_distribution(torch.cat([logits.gather(-1, indices), rest], dim=-1)), has_no_tail
