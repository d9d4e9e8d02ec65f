"""Losses of each token, for vocabularies of which no second copy fits into memory.

Logits are cut into chunks of positions, and what is computed of a chunk is computed again in backward rather than
kept: probabilities of the size of the vocabulary exist for one chunk at a time. Padding is masked as everything else
that is no item is, by the label -100.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_kd_lambda.losses.functional.items import IGNORED, sum_over_items, zero_ignored

CHUNK = 2**23  # logits, 34 MB in fp32 and five such tensors alive at once: 65 positions of a vocabulary of 128,000


def token_top_kl_loss(
    student_logits: Tensor,
    top_log_probs: Tensor,
    top_indices: Tensor,
    labels: Tensor,
    num_items: Tensor | int,
    temperature: float,
    chunk_size: int | None = None,
) -> Tensor:
    """T²·KL(teacher ‖ student) over the teacher's k largest classes and one more, which has the mass of all others.

    A lower bound of `soft_target_loss`, by the data-processing inequality: to put classes together cannot make
    distributions easier to tell apart. It is 0 where the student has the k probabilities right, whatever is in the
    tail. Log-probabilities kept in fp16 are off by up to 1/2048 of their value, which blurs the tail's mass.

    Args:
        student_logits: `[examples, length, vocabulary]`.
        top_log_probs: `[examples, length, k]`, the teacher's k largest at temperature T, as `KeptOutputs` keeps them.
        top_indices: `[examples, length, k]`, their tokens.
        labels: `[examples, length]`; positions labelled -100 do not count.
        num_items: what the sum over items is divided by.
        temperature: T > 0.
        chunk_size: positions at a time. Default: as many as have 2²³ logits.

    Returns:
        A scalar in fp32.
    """

    def loss(student: Tensor, log_probs: Tensor, indices: Tensor, labels: Tensor) -> Tensor:
        indices = indices.long().masked_fill(labels.eq(IGNORED).unsqueeze(-1), 0)
        log_student = _log_top_and_tail(zero_ignored(student, labels) / temperature, indices)
        top = zero_ignored(log_probs, labels).exp()
        tail = (1 - top.sum(-1, keepdim=True)).clamp(min=0)
        if indices.shape[-1] == student.shape[-1]:
            tail = torch.zeros_like(tail)  # what rounding leaves over, of which the student has nothing
        teacher = F.normalize(torch.cat([top, tail], dim=-1), p=1, dim=-1)  # rounded values may sum to more than 1
        divergence = F.kl_div(log_student, teacher, reduction="none").sum(-1)
        return temperature**2 * sum_over_items(divergence, labels) / num_items

    return sum_over_chunks(loss, (student_logits, top_log_probs, top_indices), labels, chunk_size)


def sum_over_chunks(
    loss: Callable[..., Tensor], tensors: tuple[Tensor, ...], labels: Tensor, chunk_size: int | None = None
) -> Tensor:
    """A sum over items, such as a loss: of tokens one chunk of positions after the other, of examples all at once.

    Args:
        loss: of the tensors `[items, ...]` and the labels `[items]` of a chunk; or any numbers `[...]`.
        tensors: `[examples, (length,) ...]` each; logits are the first.
        labels: `[examples, (length)]`.
        chunk_size: positions at a time. Default: as many as have 2²³ logits.

    Returns:
        A scalar, or `[...]`.
    """
    if labels.dim() == 1:
        return loss(*tensors, labels)
    chunk_size = chunk_size or max(1, CHUNK // tensors[0].shape[-1])
    # `split` has one backward for all chunks; that of a slice would make a gradient of all logits for every chunk.
    chunks: Iterator[tuple[Tensor, ...]] = zip(
        *(each.flatten(0, 1).split(chunk_size) for each in (*tensors, labels)), strict=True
    )
    return torch.stack(
        [checkpoint(loss, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    ).sum(dim=0)


def _log_top_and_tail(logits: Tensor, indices: Tensor) -> Tensor:
    """Log-probabilities of the classes `[positions, k]`, then of all others together: `[positions, k + 1]`."""
    rest = logits.scatter(-1, indices, torch.finfo(logits.dtype).min).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, indices), rest], dim=-1).log_softmax(-1)
