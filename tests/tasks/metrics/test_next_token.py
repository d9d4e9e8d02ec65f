"""Accuracy and perplexity of language models."""

import math

import pytest
import torch
from helpers.tiny_lm import (
    language_models,
    lm_trainer,
    padded_batches,
    rows,
)

from hf_kd_lambda.tasks.metrics.next_token import next_token_metrics, next_token_predictions


def test_metrics_need_no_logits_of_a_whole_evaluation(tmp_path):
    teacher, student = language_models()
    data = rows(12)
    kept = {"compute_metrics": next_token_metrics, "preprocess_logits_for_metrics": next_token_predictions}
    trainer = lm_trainer(tmp_path, teacher, student, kwargs=kept, per_device_eval_batch_size=5)
    output = trainer.predict(data)
    assert [predicted.shape for predicted in output.predictions] == [output.label_ids.shape] * 2
    (batch,) = padded_batches(data, 12)
    labels = batch.pop("labels")[:, 1:]
    logits = student.eval()(**batch).logits[:, :-1][labels != -100]
    right = (logits.argmax(-1) == labels[labels != -100]).float().mean().item()
    task = torch.nn.functional.cross_entropy(logits, labels[labels != -100]).item()
    assert output.metrics["test_accuracy"] == output.metrics["test_score"] == pytest.approx(right)
    assert output.metrics["test_perplexity"] == pytest.approx(math.exp(task), rel=1e-5)
