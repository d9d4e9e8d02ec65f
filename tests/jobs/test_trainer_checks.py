"""What is refused or warned of when the trainer of a job is made."""

import logging

import pytest
from helpers.small_jobs import job, settings

from hf_kd_lambda.jobs import trainer_checks


@pytest.fixture
def warned(monkeypatch, caplog):
    """The warnings of this package."""
    monkeypatch.setattr(logging.getLogger("hf_kd_lambda"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return caplog


def with_evaluations(folder, **changed):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "eval_strategy": "epoch"}
    return job(settings(folder, **{**best, "save_strategy": "epoch", "dataloader_drop_last": True, **changed}))


def test_evaluations_that_drop_all_examples_are_refused_by_their_batch_size(tmp_path):
    message = r"per_device_eval_batch_size=64: the 36 validation examples fill no batch, and dataloader_drop_last=True"
    with pytest.raises(ValueError, match=message):
        with_evaluations(tmp_path).check()


def test_evaluations_that_drop_some_examples_are_warned_of_and_their_metrics_known(tmp_path, warned):
    with_evaluations(tmp_path, per_device_eval_batch_size=25).check()
    assert "dataloader_drop_last=True: 11 of the 36 validation examples are left out" in warned.text


def test_settings_that_a_short_run_does_not_reach_are_warned_of(tmp_path, warned):
    job(settings(tmp_path, lambda_interval=12, warmup_steps=12)).check()  # of 72 examples in batches of 12, 2 epochs
    assert "lambda_interval=12: the run has 12 optimizer steps, so that λ is measured at the first" in warned.text
    assert "warmup_steps=12: the run has 12 optimizer steps, so that it ends before the learning" in warned.text
    warned.clear()
    job(settings(tmp_path, lambda_interval=11, warmup_steps=11)).check()
    assert "optimizer steps, so that" not in warned.text


def test_a_student_that_does_not_fit_into_the_memory_while_it_trains_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_checks, "memory", lambda device: 100_000)
    with pytest.raises(ValueError, match=r"^the student's weights, gradients and optimizer take .* GB, and cpu has"):
        job(settings(tmp_path)).check()
