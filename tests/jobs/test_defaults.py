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
        ({"save_strategy": "best"}, ("epoch", "best", True, "score")),
        ({"save_strategy": "best", "eval_strategy": "no"}, ("no", "best", False, "score")),
        ({"save_strategy": "steps"}, ("steps", "steps", True, "score")),
        ({"save_steps": 7}, ("steps", "steps", True, "score")),
        ({"save_steps": 7, "save_strategy": "epoch"}, ("epoch", "epoch", True, "score")),
        ({"save_steps": 7, "eval_strategy": "epoch"}, ("epoch", "steps", False, None)),
        ({"save_steps": 7, "eval_strategy": "no"}, ("no", "steps", False, None)),
        ({"eval_steps": 5, "save_strategy": "epoch"}, ("steps", "epoch", False, None)),
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
    if config.load_best_model_at_end and config.save_strategy == "steps":
        assert config.save_steps == config.eval_steps == settings.get("eval_steps", settings.get("save_steps", 500))


def test_a_run_that_keeps_the_last_student_because_of_its_steps_says_so(caplog):
    config_of(eval_steps=5, save_steps=5)
    config_of(eval_steps=5, save_steps=10, load_best_model_at_end=False)
    assert not caplog.text
    config_of(eval_steps=5, save_steps=10)
    assert "save_steps=10.0 differs from eval_steps=5.0, so that the last student is kept" in caplog.text
    for strategies in ({"save_strategy": "steps"}, {"save_steps": 7}):
        caplog.clear()
        config_of(eval_strategy="epoch", **strategies)
        assert "save_strategy=steps differs from eval_strategy=epoch, so that the last student is kept" in caplog.text
    caplog.clear()
    for switched_off in ("eval_strategy", "save_strategy"):
        config_of(**{switched_off: "no"})
    assert not caplog.text


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
