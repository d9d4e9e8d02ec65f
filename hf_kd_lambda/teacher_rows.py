"""What is kept of a teacher's outputs: logits, the largest logits of a large vocabulary, hidden states."""

from collections.abc import Sequence

import torch
from torch import Tensor


def logits_rows(logits: Tensor, attention_mask: Tensor | None = None) -> dict[str, list[Tensor]]:
    """One row of fp32 logits an example: `[classes]`, or of each token `[tokens, classes]`, without padding.

    Args:
        logits: `[examples, classes]` or `[examples, length, classes]`.
        attention_mask: `[examples, length]`, 0 at padding; None where all is tokens, or none is.
    """
    if logits.dim() > 2 and attention_mask is not None:
        return {"teacher_logits": _unpadded(logits.float(), attention_mask)}
    return {"teacher_logits": [row.clone() for row in logits.float().cpu()]}  # a view would be pickled with its batch


def top_logits_rows(logits: Tensor, attention_mask: Tensor, k: int) -> dict[str, list[Tensor]]:
    """The k largest logits of each token: fp16 values and int32 indices, `[tokens, k]` an example, without padding.

    A vocabulary of 32,000 in fp16 takes 64 kB a token, 64 of it 384 bytes. What is left out is the tail, whose mass
    `logsumexp` of all logits, kept in `teacher_log_normalizer` (`[tokens, 1]`, fp32), still gives.

    Args:
        logits: `[examples, length, vocabulary]`.
        attention_mask: `[examples, length]`, 0 at padding.
        k: how many.
    """
    values, indices = logits.float().topk(k, dim=-1)
    normalizer = logits.float().logsumexp(dim=-1, keepdim=True)
    return {
        "teacher_top_logits": _unpadded(values.half(), attention_mask),
        "teacher_top_indices": _unpadded(indices.int(), attention_mask),
        "teacher_log_normalizer": _unpadded(normalizer, attention_mask),
    }


def hidden_rows(
    hidden_states: Sequence[Tensor], attention_mask: Tensor, layers: Sequence[int]
) -> dict[str, list[Tensor]]:
    """Hidden states of some layers in fp16, `[tokens, hidden]` an example and layer, without padding.

    Args:
        hidden_states: as a model returns them, each `[examples, length, hidden]`; the first is the embeddings'.
        attention_mask: `[examples, length]`, 0 at padding.
        layers: indices of `hidden_states`.
    """
    return {f"teacher_hidden_{layer}": _unpadded(hidden_states[layer].half(), attention_mask) for layer in layers}


def padded(rows: Sequence[Tensor], attention_mask: Tensor) -> Tensor:
    """Rows of tokens as a batch again, `[examples, length, ...]`, zeros at its padding.

    Args:
        rows: `[tokens, ...]` of each example.
        attention_mask: `[examples, length]` of the batch, 0 at padding.

    Raises:
        ValueError: a row is for another number of tokens than the mask has.
    """
    is_token = attention_mask.bool()
    for row, tokens in zip(rows, is_token.sum(-1).tolist(), strict=True):
        if len(row) != tokens:
            raise ValueError(
                f"the teacher's outputs of an example are for {len(row)} tokens, but it has {tokens}: keep one for "
                "each token, special ones too, and none for padding."
            )
    batch = rows[0].new_zeros(*is_token.shape, *rows[0].shape[1:])
    batch[is_token] = torch.cat(list(rows))
    return batch


def _unpadded(values: Tensor, attention_mask: Tensor) -> list[Tensor]:
    return [row[mask.bool()].cpu() for row, mask in zip(values, attention_mask, strict=True)]
