"""Metrics of causal language models, from two numbers a position instead of logits of the size of a vocabulary."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EvalPrediction

from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.utils.first_output import first_output


def next_token_predictions(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, Tensor]:
    """What a model predicts in the place of each label, for `Trainer(preprocess_logits_for_metrics=...)`.

    Args:
        logits: `[examples, length, vocabulary]`, the first of a tuple; those at i predict the label at i + 1.
        labels: `[examples, length]`, -100 where there is none.

    Returns:
        The most probable token, and the log-probability of the label in nats: both `[examples, length]`, -100 and 0
        where there is no label or, as of the first position, no prediction.
    """
    logits = first_output(logits)
    tokens = labels.new_full(labels.shape, IGNORED)
    log_probabilities = logits.new_zeros(labels.shape, dtype=torch.float32)
    if labels.shape[1] > 1:
        predicted = torch.where(labels[:, 1:].ne(IGNORED), logits[:, :-1].argmax(-1), IGNORED)
        tokens[:, 1:] = predicted
        for row, wanted, found in zip(logits, labels[:, 1:], log_probabilities[:, 1:], strict=True):
            found.copy_(-F.cross_entropy(row[:-1].float(), wanted, ignore_index=IGNORED, reduction="none"))
    return tokens, log_probabilities


def next_token_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """Metrics of `next_token_predictions`, over all labels: accuracy, also as `score`, and perplexity.

    Perplexity is exp of the mean negative log-probability of a label: how many tokens a model is as unsure of as if it
    drew among them. Only models of one tokenizer can be compared by it.
    """
    tokens, log_probabilities = evaluation.predictions
    predicted = tokens != IGNORED
    accuracy = float(np.mean(tokens[predicted] == evaluation.label_ids[predicted]))
    perplexity = math.exp(min(-float(np.mean(log_probabilities[predicted], dtype=np.float64)), 700.0))
    return {"accuracy": accuracy, "perplexity": perplexity, "score": accuracy}
