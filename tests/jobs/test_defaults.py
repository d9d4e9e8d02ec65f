"""What a job does where the settings do not say."""

import pytest

from hf_kd_lambda.jobs.parser import parse

NAMES = ("eval_strategy", "save_strategy", "load_best_model_at_end", "metric_for_best_model")
MINIMAL = ["--teacher", "bert", "--student", "small", "--dataset", "folder"]


def config_of(**settings):
    return parse([*MINIMAL, *(f"--{name}={value}" for name, value in settings.items())])[2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("epoch", "epoch", True, "score")),
        ({"metric_for_best_model": "accuracy"}, ("epoch", "epoch", True, "accuracy")),
        ({"eval_strategy": "no"}, ("no", "epoch", False, None)),
        ({"save_strategy": "no"}, ("epoch", "no", False, None)),
        ({"save_steps": 7}, ("epoch", "steps", False, None)),
        ({"eval_steps": 5}, ("steps", "steps", True, "score")),
        ({"eval_steps": 5, "save_steps": 7}, ("steps", "steps", False, None)),
        ({"eval_steps": 5, "save_steps": 10}, ("steps", "steps", False, None)),
        ({"eval_strategy": "steps"}, ("steps", "steps", True, "score")),
        ({"eval_strategy": "steps", "save_steps": 7}, ("steps", "steps", True, "score")),
        ({"load_best_model_at_end": False}, ("epoch", "epoch", False, None)),
    ],
)
def test_evaluation_and_saving_follow_each_other(settings, expected):
    config = config_of(**settings)
    assert tuple(getattr(config, name) for name in NAMES) == expected
    if settings.get("eval_steps") and "save_steps" not in settings:
        assert config.save_steps == settings["eval_steps"]


def test_a_run_that_keeps_the_last_student_because_of_its_steps_says_so(caplog):
    config_of(eval_steps=5, save_steps=5)
    config_of(eval_steps=5, save_steps=10, load_best_model_at_end=False)
    assert not caplog.text
    config_of(eval_steps=5, save_steps=10)
    assert "save_steps=10.0 differs from eval_steps=5.0, so that the last student is kept" in caplog.text


def test_a_run_that_may_lose_the_best_student_says_so(caplog):
    config_of(eval_steps=5, save_steps=5, load_best_model_at_end=True)
    assert not caplog.text
    config_of(eval_steps=5, save_steps=10, load_best_model_at_end=True)
    assert "save_steps=10.0 differs from eval_steps=5.0, so that the best student may not be saved" in caplog.text


def test_a_run_has_about_fifty_log_entries_and_one_at_once():
    config = config_of()
    assert (config.logging_steps, config.logging_first_step) == (0.02, True)
    assert config_of(logging_steps=5).logging_steps == 5


def test_best_and_last_checkpoints_are_kept():
    assert config_of().save_total_limit == 2
    assert config_of(save_total_limit=7).save_total_limit == 7
