"""Two gloo processes against one process with the whole batch."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.small_runs import (
    BATCH,
    assert_same_run,
    config,
    examples,
    flat,
    logged,
    models,
    narrow_student,
    reference_run,
    train,
)
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]
FSDP2 = {
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"], "reshard_after_forward": True},
}


def run_two_processes(folder: Path, **settings) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Train `worker.py` on two processes; return its log and weights."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(Path(__file__).with_name("worker.py")), str(folder), json.dumps(settings)]
    env = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads((folder / "log.json").read_text()), load_file(folder / "weights.safetensors")


def assert_equals_single_process(folder: Path, model_settings: dict | None = None, **settings) -> None:
    teacher, student = models(**(model_settings or {}))
    twin = copy.deepcopy(student)
    reference_settings = {name: settings[name] for name in ("max_grad_norm",) if name in settings}
    steps = reference_run(twin, teacher, examples(), **reference_settings)
    log_history, weights = run_two_processes(folder, models=model_settings or {}, **settings)
    flat = torch.cat([weights[name].flatten() for name, _ in twin.named_parameters()])
    assert_same_run(log_history, flat, twin, steps)


def test_ddp(tmp_path):
    assert_equals_single_process(tmp_path, per_device_train_batch_size=BATCH // 2)


def test_ddp_with_accumulation_and_clipping(tmp_path):
    assert_equals_single_process(
        tmp_path, per_device_train_batch_size=BATCH // 4, gradient_accumulation_steps=2, max_grad_norm=1.0
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fsdp2(tmp_path, accumulation):
    batch = BATCH // 2 // accumulation
    assert_equals_single_process(
        tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **FSDP2
    )


HALVES = {"per_device_train_batch_size": BATCH // 2}
IN_TURN = {**HALVES, "gradient_accumulation_steps": 2}
SPLIT = {"lambda_scope": "loss", "kd_losses": {"soft_targets": 1, "hidden_mse": 1}, "lambda_min": 1e-3}
ADAM = {"gram_metric": "adam", "optim": "adamw_torch", "adam_epsilon": 1e-4, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("settings", "whole", "names"),
    [
        ({"lambda_rule": "evidence", **SPLIT}, {}, ["odds", "evidence_teacher", "lambda/hidden_mse"]),
        ({"lambda_rule": "evidence", **FSDP2}, {}, ["odds", "evidence_teacher"]),
        ({"lambda_rule": "snr", "gram_estimator": "unbiased", "lambda_max": 1e4}, IN_TURN, ["snr_kd"]),
        ({"lambda_rule": "dto", "lambda_scope": "layer", "lambda_min": 1e-4}, {}, ["lambda/layer.1", "lambda/head"]),
        ({"lambda_scope": "layer", **ADAM, **FSDP2}, {}, ["lambda/embeddings", "lambda/head"]),
        (
            {**SPLIT, "lambda_rule": "mgda", "lambda_max": 1e4, **FSDP2},
            {},
            ["lambda/soft_targets", "lambda/hidden_mse"],
        ),
    ],
    ids=[
        "votes with a split",
        "FSDP2 with votes",
        "samples",
        "losses and layers",
        "FSDP2 with layers in Adam's metric",
        "FSDP2 with a split",
    ],
)
def test_what_rules_need_is_the_same_as_in_one_process(tmp_path, settings, whole, names):
    of_one = {name: value for name, value in settings.items() if name not in FSDP2}
    single = train(config(tmp_path / "one", **{**of_one, **whole}), *models(), examples())
    log_history, weights = run_two_processes(tmp_path, **{**settings, **HALVES})
    for name in ["lambda", "grad_norm_task", *names]:
        expected = logged(single.state.log_history, name)
        assert len(set(expected)) >= 4
        assert logged(log_history, name) == pytest.approx(expected, rel=1e-4)
    both = torch.cat([weights[name].flatten() for name, _ in single.model.named_parameters()])
    assert (both - flat(single.model)).norm() < 1e-5 * both.norm()


@pytest.mark.parametrize("sharding", [{}, FSDP2], ids=["DDP", "FSDP2"])
def test_all_that_is_inside_of_models_is_learned_as_in_one_process(tmp_path, sharding):
    kd_losses = {
        "soft_targets": 1,
        "hidden_mse": 1,
        "attention_kl": 1,
        "relations": {"weight": 1, "relation_heads": 4},
    }
    settings = {"kd_losses": kd_losses, "lambda_interval": 2}  # every second step is unmeasured
    teacher, _ = models()
    single = train(config(tmp_path / "one", **settings), teacher, narrow_student(), examples())
    log_history, weights = run_two_processes(tmp_path, **settings, **HALVES, **sharding, narrow=True)
    for name in ("lambda", "grad_norm_kd", *(f"kd_loss/{name}" for name in kd_losses)):
        expected = logged(single.state.log_history, name)
        assert len(expected) == 6
        assert logged(log_history, name) == pytest.approx(expected, rel=1e-4)
    of_one = dict(single.model.named_parameters())
    assert "kd_projections.1.weight" in of_one
    for name, weight in weights.items():
        torch.testing.assert_close(weight, of_one[name].detach(), rtol=1e-4, atol=1e-6)
