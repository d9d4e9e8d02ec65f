"""Two gloo processes whose rows have unlike numbers of labels, against a plain loop over the whole batch."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import reference
from helpers.small_runs import BATCH, LEARNING_RATE, assert_same_run
from helpers.tiny_lm import language_models, next_token_losses, padded_batches, rows
from safetensors.torch import load_file


def test_both_losses_are_divided_by_the_labels_of_all_ranks_and_micro_batches(tmp_path, monkeypatch):
    teacher, twin = language_models("gpt2")
    monkeypatch.setattr(reference, "losses", next_token_losses)
    optimizer = torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE)
    steps = reference.run(twin, copy.deepcopy(teacher), padded_batches(rows()), optimizer)

    settings = {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 2}
    settings |= {"per_device_eval_batch_size": 3}
    worker = Path(__file__).with_name("lm_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(worker), str(tmp_path), json.dumps(settings)]
    env = {**os.environ, "PYTHONPATH": str(worker.parents[1]), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]

    told, weights = json.loads((tmp_path / "log.json").read_text()), load_file(tmp_path / "weights.safetensors")
    flat = torch.cat([weights[name].flatten() for name, _ in twin.named_parameters()])
    assert_same_run(told["history"], flat, twin, steps)
    (batch,) = padded_batches(rows(12), 12)
    task, kd = next_token_losses(twin.eval(), teacher, batch)
    assert told["metrics"]["eval_task_loss"] == pytest.approx(task.item(), rel=1e-5)
    assert told["metrics"]["eval_kd_loss"] == pytest.approx(kd.item(), rel=1e-5)
