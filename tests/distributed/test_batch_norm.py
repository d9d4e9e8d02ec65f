"""Running statistics under DDP: on every rank the same whether or not steps measure λ."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers.processes import run_two_ranks
from safetensors.torch import load_file

EVEN = {"lambda_min": 1.0, "lambda_max": 1.0}  # both losses weigh one half, as with the fixed rule
RULES = {
    "plain": {"lambda_rule": "fixed", "kd_weight": 0.5},
    "measured": {"lambda_interval": 1, **EVEN},
    "every second measured": {"lambda_interval": 2, **EVEN},
}
ACCUMULATIONS = (1, 3)


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    """Statistics of both ranks at the end of training, by rule and accumulation steps."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = {
        f"{name} {steps}": {**rule, "gradient_accumulation_steps": steps, "per_device_train_batch_size": 4}
        for name, rule in RULES.items()
        for steps in ACCUMULATIONS
    }
    compiled = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    runs["compiled 1"] = {**runs["every second measured 1"], **compiled}
    result = run_two_ranks(Path(__file__).with_name("batch_norm_worker.py"), str(folder), json.dumps(runs))
    assert result.returncode == 0, result.stderr[-4000:]
    return {name: [load_file(folder / f"{name} {rank}.safetensors") for rank in range(2)] for name in runs}


@pytest.mark.parametrize(
    ("rule", "steps"), [*product(["measured", "every second measured"], ACCUMULATIONS), ("compiled", 1)]
)
def test_measuring_steps_send_buffers_as_the_trainers_own_do(statistics, rule, steps):
    plain, measured = statistics[f"plain {steps}"], statistics[f"{rule} {steps}"]
    means = [buffers["resnet.embedder.embedder.normalization.running_mean"] for buffers in plain]
    assert not torch.equal(*means), "the last batch of each rank is its own"
    for expected, found in zip(plain, measured, strict=True):
        for name, buffer in expected.items():
            torch.testing.assert_close(found[name], buffer, rtol=1e-4, atol=1e-6)
