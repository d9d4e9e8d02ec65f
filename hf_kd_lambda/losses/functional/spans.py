"""Spans of question answering: the start and the end of an answer are two items, whose classes are the tokens.

A model gives two logits a token, `[examples, length, 2]`. Transposed, they are the logits of two classifiers over the
positions (Devlin et al. 2019, "BERT", section 4.2), so that all losses, votes and agreement work as for any class.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.losses.functional.labels import UNLABELLED

SPAN_LABELS = ("start_positions", "end_positions")
ANSWER_MASK = "answer_mask"
"""`[examples, length]` in a batch of question answering: 1 where an answer may start or end, 0 elsewhere."""


def logits_of_items(logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Logits of items over classes; for question answering, of start and end over positions.

    Args:
        logits: `[examples, (length,) classes]`; with a mask of answers in the batch, `[examples, length, 2]`.
        batch: tensors by name.

    Returns:
        The logits themselves; or `[examples, 2, length]`, −∞ where no answer can start or end.
    """
    if ANSWER_MASK not in batch:
        return logits
    possible = batch[ANSWER_MASK].bool().unsqueeze(1)
    return logits.transpose(1, 2).masked_fill(~possible, float("-inf"))


def span_labels(batch: Mapping[str, Any]) -> Tensor:
    """Labels `[examples, 2]` of start and end; -101 where there is none, or one beyond the tokens.

    Args:
        batch: with `input_ids` `[examples, length]`, perhaps `start_positions` and `end_positions` `[examples]`.
    """
    examples, length = batch["input_ids"].shape
    if any(batch.get(name) is None for name in SPAN_LABELS):
        return batch["input_ids"].new_full((examples, 2), UNLABELLED)
    labels = torch.stack([batch[name] for name in SPAN_LABELS], dim=-1)
    return labels.masked_fill((labels < 0) | (labels >= length), UNLABELLED)
