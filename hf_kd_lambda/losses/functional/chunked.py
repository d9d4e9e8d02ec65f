"""Losses on tokens with large vocabularies, where a second copy of the logits would not fit into memory.

The logits are split into chunks of positions, and the backward pass recomputes each chunk. So probabilities over the
vocabulary exist for one chunk at a time. Padding has the label -100, like all positions that are not items.
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

CHUNK_LOGITS = 2**23  # 34 MB in fp32, up to five such tensors at once; 65 positions with a vocabulary of 128,000


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
    """T²·KL(teacher ‖ student) over the teacher's top k classes and the tail: one class for all others.

    A lower bound of `soft_target_loss`, by the data-processing inequality: merging classes cannot increase a KL
    divergence. It is 0 if the student's top k probabilities are right, for any distribution within the tail.
    Log-probabilities cached in fp16 have a relative error of up to 1/2048, which makes the tail's mass inaccurate.

    Logits of −∞ exclude a class, see `distributions`. If the student has no class in the tail, the teacher's tail mass
    is ignored, because it cannot be distinguished from rounding errors.

    Args:
        student_logits: `[examples, length, vocabulary]`.
        top_log_probs: `[examples, length, k]`, the teacher's k largest log-probabilities at temperature T.
        top_indices: `[examples, length, k]`, their token ids.
        labels: `[examples, length]`; positions labelled -100 are ignored.
        num_items: divisor of the sum over items.
        temperature: T > 0.
        chunk_size: positions per chunk. Default: as many as have 2²³ logits.
        weights: per-item weights, same shape as `labels`; None means 1.

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
    """A sum over items, such as a loss: chunk by chunk for tokens, in one call for whole examples.

    Args:
        loss: takes the tensors `[items, ...]` and the labels `[items]` of a chunk, and returns sums `[...]`.
        tensors: `[examples, (length,) ...]` each, the logits first. None is passed to every chunk as None.
        labels: `[examples, (length)]`.
        chunk_size: positions per chunk. Default: as many as have 2²³ logits.

    Returns:
        `[...]`, the sum over all chunks; a scalar for a loss.
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
    """Tensors and labels split into chunks `[items, ...]` of positions; a single chunk for whole examples.

    Args:
        tensors, labels, chunk_size: see `sum_over_chunks`.
    """
    if labels.dim() == 1:
        return [(*tensors, labels)]
    size = chunk_size or chunk_positions(cast(Tensor, tensors[0]).shape[-1])
    # `split` has one backward for all chunks. Slices would allocate a gradient of all logits for every chunk.
    label_chunks = labels.flatten(0, 1).split(size)
    others = ([None] * len(label_chunks) if values is None else values.flatten(0, 1).split(size) for values in tensors)
    return zip(*others, label_chunks, strict=True)


def chunk_positions(classes: int) -> int:
    """As many positions as have 2²³ logits, at least one."""
    return max(1, CHUNK_LOGITS // classes)


def _log_top_and_tail(logits: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the top k classes and of the tail `[positions, k + 1]`, and whether there is no tail.

    There is no tail, `[positions, 1]`, if k is the whole vocabulary or all other logits are −∞.
    """
    lowest = torch.finfo(logits.dtype).min  # not −∞: if all inputs are −∞, the gradient of logsumexp is NaN
    rest = logits.scatter(-1, indices, lowest).logsumexp(-1, keepdim=True)
    has_no_tail = rest < lowest / 2
    rest = rest.masked_fill(has_no_tail, -math.inf)
    return log_distribution(torch.cat([logits.gather(-1, indices), rest], dim=-1)), has_no_tail
