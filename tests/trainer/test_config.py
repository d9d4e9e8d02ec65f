"""Every setting out of its range is refused by its name; precision is resolved once."""

import copy
import dataclasses
import math

import numpy as np
import pytest

from hf_kd_lambda.balancing.rules import RULES
from hf_kd_lambda.balancing.rules.common_descent import MGDA
from hf_kd_lambda.balancing.rules.norm_based import Evidence
from hf_kd_lambda.balancing.rules.schedules import Fixed
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.trainer.config import DistillationConfig


def make(tmp_path, **settings):
    return DistillationConfig(output_dir=str(tmp_path), report_to="none", **{"use_cpu": True, **settings})


# --- distillation


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["lambda_kappa", "lambda_min", "lambda_max"])
def test_what_must_be_positive_and_finite(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value} must be a positive finite number\.$"):
        make(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda_min": 2.0, "lambda_max": 1.0}, r"lambda_min=2\.0 must not exceed lambda_max=1\.0"),
        ({"gram_decay": 1.0}, r"gram_decay=1\.0 must be a number in \[0, 1\)"),
        ({"gram_decay": -0.1}, r"gram_decay=-0\.1 must be a number in \[0, 1\)"),
        ({"gram_decay": math.nan}, r"gram_decay=nan must be a number in \[0, 1\)"),
        ({"lambda_max_change": 0.0}, r"lambda_max_change=0\.0 must be a positive number of at most 700"),
        ({"lambda_max_change": 1e3}, r"lambda_max_change=1000\.0 must be a positive number of at most 700"),
        ({"lambda_interval": 0}, "lambda_interval=0 must be a number from 1 to 1e"),
        ({"class_weights": "inverse"}, "class_weights='inverse' is not one of None, balanced"),
        ({"lambda_form": "convexe"}, "lambda_form='convexe' is not one of additive, convex, sum_two, raw"),
        ({"gram_metric": "sgd"}, "gram_metric='sgd' is not one of euclidean, adam"),
        ({"gram_estimator": "u"}, "gram_estimator='u' is not one of biased, unbiased"),
        ({"lambda_scope": "block"}, "lambda_scope='block' is not one of model, layer"),
        ({"precision": "bf8"}, "precision='bf8' is not one of auto, fp32, bf16, fp16"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 must be at least 1"),
        ({"learning_rate": -1.0}, r"learning_rate=-1\.0 must be 0, or a number from"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(tmp_path, **settings)


@pytest.mark.parametrize(
    ("kd_weight", "form", "message"),
    [
        (1.1, "convex", r"kd_weight=1\.1 must lie in \[0, 1\] unless lambda_form is 'additive'"),
        (1.1, "raw", r"kd_weight=1\.1 must lie in \[0, 1\] unless lambda_form is 'additive'"),
        (-0.1, "convex", r"kd_weight=-0\.1 must lie in \[0, 1\]"),
        (math.nan, "convex", r"kd_weight=nan must lie in \[0, 1\]"),
        (-1.0, "additive", r"kd_weight=-1\.0 must lie in \[0, inf\)"),
        (math.inf, "additive", "kd_weight=inf"),
    ],
)
def test_a_fixed_weight_out_of_range_is_refused_with_its_value(tmp_path, kd_weight, form, message):
    with pytest.raises(ValueError, match=f"^lambda_rule='fixed': {message}"):
        make(tmp_path, lambda_rule="fixed", kd_weight=kd_weight, lambda_form=form)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda_rule": "mgdaa"}, "^lambda_rule='mgdaa': unknown rule 'mgdaa': did you mean 'mgda'"),
        ({"lambda_rule": "evidence", "lambda_rule_kwargs": {"gama": 1.0}}, "={'gama': 1.0}: .* did you mean 'gamma'"),
        ({"lambda_rule": "evidence", "lambda_rule_kwargs": {"gamma": -1.0}}, r"gamma=-1\.0 must lie in \[0, inf\)"),
        ({"lambda_rule": "mgda", "lambda_rule_kwargs": {"gamma": 1.0}}, "'gamma': it has none"),
        ({"lambda_rule_kwargs": "gamma: 1"}, "lambda_rule_kwargs='gamma: 1' must be a mapping"),
        ({"lambda_rule_kwargs": {"kappa": 2.0}}, r"lambda_rule_kwargs=.*: kappa is no part of it, set lambda_kappa"),
        ({"lambda_rule": "fixed", "lambda_rule_kwargs": {"form": "raw"}}, "form is no part of it, set lambda_form"),
        ({"lambda_rule": "fixed", "lambda_rule_kwargs": {"kd_weight": 0.1}}, "set kd_weight itself"),
        ({"lambda_rule": "linear", "lambda_form": "additive"}, "lambda_form='additive' .*'linear', a schedule"),
        ({"kd_weight": 0.9}, r"kd_weight=0\.9 is for lambda_rule='fixed', and lambda_rule='trust' sets λ itself"),
        ({"kd_weight": 0.9, "lambda_rule": "linear"}, r"kd_weight=0\.9 is for .* lambda_rule='linear' sets λ itself"),
        (
            {"lambda_rule": "taylor2", "lambda_interval": 2},
            "lambda_rule='taylor2' compares .* set lambda_interval to 1",
        ),
        ({"lambda_scope": "layer", "lambda_interval": 2}, "lambda_scope='layer' needs .* set lambda_interval to 1"),
        ({"lambda_scope": "layer", "lambda_rule": "fixed"}, "lambda_scope='layer' needs .* lambda_rule to one that"),
        ({"use_liger_kernel": True}, "use_liger_kernel=True is not for lambda_rule='trust': it overwrites in one"),
        (
            {"use_liger_kernel": True, "lambda_rule": "fixed"},
            "use_liger_kernel=True: liger-kernel is not installed: pip install liger-kernel, or leave it out",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **settings)


def test_the_rule_takes_its_hyper_parameters_from_the_settings(tmp_path):
    settings = {"lambda_rule": "evidence", "lambda_kappa": 2.0, "lambda_rule_kwargs": '{"gamma": 1.5}'}
    assert make(tmp_path, **settings).rule == Evidence(kappa=2.0, gamma=1.5)
    assert make(tmp_path, lambda_rule="fixed", kd_weight=0.3).rule == Fixed(0.3, "convex")
    assert make(tmp_path, lambda_rule="fixed", kd_weight=3.0, lambda_form="additive").rule == Fixed(3.0, "additive")
    assert make(tmp_path, lambda_rule="mgda", lambda_kappa=2.0).rule == MGDA()


@pytest.mark.parametrize(
    "settings",
    [
        {"kd_weight": 0.0, "lambda_rule": "fixed"},
        {"kd_weight": 1.0, "lambda_rule": "fixed"},
        {"kd_weight": 30.0, "lambda_rule": "fixed", "lambda_form": "additive"},
        {"gram_decay": 0.0},
        {"lambda_min": 1.0, "lambda_max": 1.0},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(tmp_path, settings):
    args = make(tmp_path, **settings)
    assert {name: getattr(args, name) for name in settings} == settings


def test_a_setting_that_is_changed_later_counts(tmp_path):
    args = make(tmp_path, lambda_rule="fixed", kd_weight=0.5, kd_losses={"soft_targets": 1})
    for weight in (0.1, 0.9):
        args.kd_weight = weight
        assert copy.copy(args).rule == RULES["fixed"](kd_weight=weight)
    args.lambda_rule = "adaptive"
    assert type(args.rule) is RULES["adaptive"]
    args.kd_losses = {"reverse_kl": 1}
    assert [*args.kd_losses_for(3)] == ["reverse_kl"]


def test_numbers_may_be_those_of_numpy(tmp_path):
    args = make(tmp_path, temperature=np.float32(4), per_device_train_batch_size=np.int64(8))
    assert (args.temperature, args.per_device_train_batch_size) == (4, 8)
    with pytest.raises(ValueError, match=r"temperature=0.0 must be"):
        make(tmp_path, temperature=np.float32(0))


@pytest.mark.parametrize(
    ("settings", "every"), [({}, 500), ({"save_steps": 0.2}, 0.2), ({"logging_steps": 10}, 10), ({"eval_steps": 5}, 5)]
)
def test_evaluations_are_not_as_many_as_log_entries(tmp_path, settings, every):
    args = make(tmp_path, eval_strategy="steps", save_strategy="steps", load_best_model_at_end=True, **settings)
    assert args.eval_steps == every


def test_transformers_own_listener_to_signals_is_left_out(tmp_path):
    assert not make(tmp_path, enable_jit_checkpoint=True).enable_jit_checkpoint


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_does_not_follow_a_loss_whose_weights_change(tmp_path, schedule):
    args = make(tmp_path, lr_scheduler_type=schedule, eval_strategy="epoch")
    assert (args.metric_for_best_model, args.greater_is_better) == ("task_loss", False)


@pytest.mark.parametrize(
    ("metric", "given", "better"),
    [("perplexity", None, False), ("eval_perplexity", True, True), ("score", None, True), (None, None, False)],
)
def test_of_perplexities_the_lowest_is_the_best(tmp_path, metric, given, better):
    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    args = make(tmp_path, **settings, metric_for_best_model=metric, greater_is_better=given)
    assert args.greater_is_better is better


def test_a_config_can_be_copied_with_another_setting(tmp_path):
    args = make(tmp_path, temperature=4.0, precision="fp32")
    copy = dataclasses.replace(args, lambda_rule="fixed")
    assert (copy.temperature, copy.lambda_rule, copy.precision) == (4.0, "fixed", "fp32")


# --- precision


@pytest.fixture
def bf16_units(monkeypatch):
    """Say whether the device multiplies bf16 in hardware."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    return lambda present: monkeypatch.setattr(
        "hf_kd_lambda.trainer.config_defaults.multiplies_bf16", lambda use_cpu: present
    )


@pytest.mark.parametrize(
    ("settings", "units", "expected"),
    [
        ({}, True, "bf16"),
        ({}, False, "no"),
        ({"precision": "fp32"}, True, "no"),
        ({"precision": "bf16"}, False, "bf16"),
        ({"precision": "fp16"}, True, "fp16"),
        ({"bf16": True}, False, "bf16"),
        ({"fp16": True}, True, "fp16"),
        ({"bf16": True, "precision": "bf16"}, True, "bf16"),
    ],
)
def test_autocast_of_training(tmp_path, bf16_units, settings, units, expected):
    bf16_units(units)
    args = make(tmp_path, **settings)
    assert {"no": (False, False), "bf16": (False, True), "fp16": (True, False)}[expected] == (args.fp16, args.bf16)


def test_a_copy_with_another_precision_than_it_has_is_refused(tmp_path, bf16_units):
    bf16_units(True)
    args = make(tmp_path)
    assert args.bf16
    with pytest.raises(ValueError, match="precision='fp32', bf16=True: they differ: leave bf16 out, or set it to Fal"):
        dataclasses.replace(args, precision="fp32")
    assert dataclasses.replace(args, precision="fp32", bf16=False).autocast == "fp32"


@pytest.mark.parametrize("launched_with", ["bf16", "fp16"])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_the_launchers_mixed_precision_wins(tmp_path, bf16_units, monkeypatch, launched_with, precision):
    bf16_units(True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched_with)
    args = make(tmp_path, precision=precision)
    assert args.mixed_precision == launched_with


def test_a_launcher_that_says_no_leaves_the_choice_to_precision(tmp_path, bf16_units, monkeypatch):
    bf16_units(True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert make(tmp_path).bf16


def test_a_machine_without_an_accelerator_trains_on_its_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert make(tmp_path, use_cpu=False).use_cpu


# --- models and data


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no student: set student to a checkpoint, or student_layers"),
        ({"student": "a", "student_layers": [0]}, r"student='a' and student_layers=\[0\] both name a student"),
        ({"student_layers": []}, r"student_layers=\[\] keeps no layer"),
        ({"student": "a", "teacher_epochs": 0}, "teacher_epochs=0 must be a number from 1e-05"),
        (
            {"student": "a", "teacher_learning_rate": -1e-5},
            "teacher_learning_rate=-1e-05 must be a number from 1e-15",
        ),
    ],
)
def test_models_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        ModelArguments(teacher="t", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "dataset=None and train_file=None: give exactly one"),
        ({"dataset": "d", "train_file": "t.csv"}, "dataset='d' and train_file='t.csv': give exactly one"),
        ({"train_file": "t.csv", "validation_share": 1.0}, "validation_share=1.0 must be above 0 and below 1"),
        ({"train_file": "t.csv", "validation_share": float("nan")}, "validation_share=nan must be above 0"),
        ({"train_file": "t.csv", "delimiter": "::"}, "delimiter='::' must be one character"),
        ({"train_file": "t.csv", "delimiter": '"'}, "delimiter='\"' must be one character"),
        ({"dataset": "d", "max_length": 0}, "max_length=0 must be at least 1"),
        ({"dataset": "d", "max_train_samples": 0}, "max_train_samples=0 must be at least 1"),
        ({"dataset": "d", "max_eval_samples": -3}, "max_eval_samples=-3 must be at least 1"),
    ],
)
def test_data_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        DataArguments(**settings)


@pytest.mark.parametrize(
    ("settings", "interval"),
    [
        ({}, 8),
        ({"lambda_interval": 3}, 3),
        ({"lambda_rule": "taylor2"}, 1),
        ({"lambda_scope": "layer"}, 1),
        ({"lambda_rule": "fixed"}, 8),
    ],
)
def test_the_interval_is_eight_where_nothing_needs_each_step(tmp_path, settings, interval):
    assert DistillationConfig(output_dir=str(tmp_path), **settings).interval == interval


def test_another_rule_has_its_own_default_interval(tmp_path):
    config = DistillationConfig(output_dir=str(tmp_path))
    assert dataclasses.replace(config, lambda_rule="taylor2").interval == 1


@pytest.mark.parametrize(
    ("on_cpu", "start", "given", "workers"),
    [
        (True, "fork", None, 0),
        (True, "fork", 2, 2),
        (False, "fork", None, 4),
        (False, "fork", 0, 0),
        (False, "spawn", None, 0),
        (False, "spawn", 2, 2),
    ],
)
def test_batches_are_prepared_aside_where_the_cores_are_free(tmp_path, monkeypatch, on_cpu, start, given, workers):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none: None)
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: [start])
    monkeypatch.setattr("torch.accelerator.is_available", lambda: not on_cpu)
    monkeypatch.setattr("hf_kd_lambda.trainer.config_defaults.usable_cores", lambda: 32)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    args = DistillationConfig(output_dir=str(tmp_path), dataloader_num_workers=given, precision="fp32")
    assert args.dataloader_num_workers == workers
