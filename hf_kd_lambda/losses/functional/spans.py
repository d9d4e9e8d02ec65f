"""Answer spans: start and end of an answer are two items per example, and the token positions are their classes.

A model returns two logits per token, `[examples, length, 2]`. Transposed, they are the logits of two classifiers over
positions (Devlin et al. 2019, "BERT", section 4.2). So losses, votes and agreement work as for other classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_kd_lambda.losses.functional.label_sets import has_label_sets, logits_of_labels
from hf_kd_lambda.losses.functional.labels import UNLABELLED

SPAN_LABELS = ("start_positions", "end_positions")
ANSWER_MASK = "answer_mask"
"""Key of a question-answering batch: `[examples, length]`, 1 where an answer may start or end, else 0."""


def logits_of_items(logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Logits of items over classes; for question answering, of start and end over positions.

    Args:
        logits: `[examples, (length,) classes]`; `[examples, length, 2]` if the batch has an `ANSWER_MASK`.
        batch: tensors by name.

    Returns:
        `logits` unchanged; with a mask, `[examples, 2, length]`, −∞ where no answer can start or end; with several
        labels an example, `[examples, labels, 2]`, see `label_sets`.
    """
    if has_label_sets(logits, batch.get("labels")):
        return logits_of_labels(logits)
    if ANSWER_MASK not in batch:
        return logits
    possible = batch[ANSWER_MASK].bool().unsqueeze(1)
    return logits.transpose(1, 2).masked_fill(~possible, float("-inf"))


def span_labels(batch: Mapping[str, Any]) -> Tensor:
    """Labels `[examples, 2]` of start and end; -101 if the label is missing or outside the tokens.

    Args:
        batch: `input_ids` `[examples, length]` and optionally `start_positions`, `end_positions` `[examples]`.
    """
    examples, length = batch["input_ids"].shape
    if any(batch.get(name) is None for name in SPAN_LABELS):
        return batch["input_ids"].new_full((examples, 2), UNLABELLED)
    labels = torch.stack([batch[name] for name in SPAN_LABELS], dim=-1)
    return labels.masked_fill((labels < 0) | (labels >= length), UNLABELLED)
