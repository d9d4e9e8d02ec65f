"""Training on a GPU: the same run as on the CPU, for each kind of rule, data and precision. Skipped without one."""

import pytest
import torch
from helpers.label_kinds import MULTI_LABEL, label_sets
from helpers.small_jobs import job, settings
from helpers.small_runs import (
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    narrow_student,
    partly_labelled,
    several_teachers,
)
from helpers.tiny_lm import language_models, lm_trainer_of
from helpers.tiny_spans import collate, partly_answered, span_models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

ADAM = {"gram_metric": "adam", "adam_epsilon": 1e-4, "learning_rate": 1e-3}
INSIDE = {"soft_targets": 1, "hidden_mse": 1, "attention_kl": 1, "relations": {"weight": 1, "relation_heads": 4}}

RULES = {
    "adaptive": {},
    "accumulation and clipping": {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "max_grad_norm": 1.0,
    },
    "every second step": {"lambda_interval": 2},
    "AdamW": {"optim": "adamw_torch", **ADAM},
    "fused AdamW": {"optim": "adamw_torch_fused", **ADAM},
    "votes": {"lambda_rule": "evidence"},
    "trust": {"lambda_rule": "trust"},
    "samples": {"lambda_rule": "snr", "gram_estimator": "unbiased", "lambda_max": 1e4},
    "a λ for each loss": {
        "lambda_scope": "loss",
        "kd_losses": {"soft_targets": 1, "hidden_mse": 1},
        "lambda_min": 1e-3,
    },
    "a λ for each layer": {"lambda_rule": "dto", "lambda_scope": "layer", "lambda_min": 1e-4},
    "cached logits": {"lambda_rule": "trust", "cache_teacher": True, "num_train_epochs": 2},
    "torch.compile": {"torch_compile": True},
}
"""Settings of runs on the usual examples."""

KINDS = {
    "transfer set": lambda args: make_trainer(args, *models(), partly_labelled()),
    "numbers": lambda args: make_trainer(args, *models(num_labels=1), examples(num_labels=1)),
    "several labels": lambda args: make_trainer(args, *models(**MULTI_LABEL), label_sets()),
    "several teachers": lambda args: make_trainer(args, several_teachers(), models()[1], examples()),
    "language models": lambda args: lm_trainer_of(args, *language_models()),
    "questions": lambda args: make_trainer(args, *span_models(), partly_answered(), data_collator=collate),
}
"""Trainers of other kinds of labels, data and teachers."""


def both(folder, make, **given):
    """The trainers of two runs: on the CPU, and on the GPU."""
    trainers = []
    for use_cpu in (True, False):
        own = folder / f"use_cpu {use_cpu}"
        trainer = make(config(own, use_cpu=use_cpu, teacher_cache_dir=str(own / "cache"), tf32=False, **given))
        trainer.train()
        assert {parameter.is_cuda for parameter in trainer.model.parameters()} == {not use_cpu}
        trainers.append(trainer)
    return trainers


def assert_same(cpu, gpu, rel=1e-3):
    """λ, which must have moved, both losses, and the weights."""
    histories = [trainer.state.log_history for trainer in (gpu, cpu)]
    assert len({round(value, 5) for value in logged(histories[0], "lambda")}) > 2
    for name in ("lambda", "task_loss", "kd_loss"):
        found, expected = (logged(history, name) for history in histories)
        assert found == pytest.approx(expected, rel=rel, abs=1e-5)
    found, expected = (flat(trainer.model).cpu() for trainer in (gpu, cpu))
    assert (found - expected).norm() < rel * expected.norm()


@pytest.mark.parametrize("name", RULES)
def test_a_rule_sets_the_same_lambda_as_on_the_cpu(tmp_path, name):
    assert_same(*both(tmp_path, lambda args: make_trainer(args, *models(), examples()), **RULES[name]))


@pytest.mark.parametrize("rule", ["adaptive", "trust"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_data_is_learnt_as_on_the_cpu(tmp_path, kind, rule):
    assert_same(*both(tmp_path, KINDS[kind], lambda_rule=rule))


@pytest.mark.parametrize(
    "cached", [{}, {"cache_teacher": True, "cache_hidden_states": True}], ids=["online", "cached"]
)
def test_what_is_inside_the_models_is_learnt_as_on_the_cpu(tmp_path, cached):
    losses = {name: INSIDE[name] for name in ("soft_targets", "hidden_mse")} if cached else INSIDE
    trainers = both(
        tmp_path,
        lambda args: make_trainer(args, models()[0], narrow_student(), examples()),
        kd_losses=losses,
        **cached,
    )
    assert_same(*trainers)


@pytest.mark.parametrize("given", [{}, {"max_grad_norm": 1.0, "lambda_rule": "trust"}], ids=["plain", "clipped"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_fp32(tmp_path, precision, given):
    trainers = []
    for own in ("fp32", precision):
        cache = str(tmp_path / own / "cache")
        args = config(tmp_path / own, use_cpu=False, precision=own, teacher_cache_dir=cache, tf32=False, **given)
        trainers.append(make_trainer(args, *models(), examples()))
        if own == "fp16":  # its first scale may be too large for these models, so that a step is skipped
            trainers[-1].accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
        trainers[-1].train()
    full, half = trainers
    assert (half.accelerator.scaler is not None) == (precision == "fp16")
    assert not any(logged(half.state.log_history, "lambda_skipped"))
    for name in ("lambda", "task_loss", "kd_loss", "grad_norm_kd"):
        assert logged(half.state.log_history, name) == pytest.approx(logged(full.state.log_history, name), rel=0.1)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path, precision):
    given = {"use_cpu": False, "precision": precision, "lambda_rule": "trust", "optim": "adamw_torch_fused"}
    given |= {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3}
    whole, resumed = (make_trainer(config(tmp_path, **given), *models(), examples()) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    lambdas = [logged(trainer.state.log_history, "lambda") for trainer in (resumed, whole)]
    assert lambdas[0] == pytest.approx(lambdas[1], rel=1e-3)
    torch.testing.assert_close(flat(resumed.model), flat(whole.model), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_job_trains_evaluates_and_reports_on_the_gpu(tmp_path, precision):
    given = settings(tmp_path, use_cpu=False, precision=precision, lambda_rule="trust", num_train_epochs=4)
    reports = job(given).run()
    assert [report.name for report in reports] == ["teacher", "student with KD"]
    assert all(report.metrics["accuracy"] > 0.5 for report in reports)
    assert (tmp_path / "out" / "report.html").is_file()
