"""A run that the code before the sub-packages began, version 0.1.0, goes on with the present code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.small_runs import config, examples, logged, make_trainer, models
from safetensors.torch import load_file

EARLIER = Path(__file__).parents[1] / "fixtures" / "run_of_0_1_0"
SETTINGS = {
    "lambda_rule": "evidence",
    "lambda_rule_kwargs": {"gamma": 1.0},
    "lambda_interval": 2,
    "num_train_epochs": 2,
}


@pytest.mark.parametrize("rebuilds", [False, True], ids=["callbacks kept", "callbacks rebuilt"])
def test_an_earlier_checkpoint_is_resumed(tmp_path, monkeypatch, rebuilds):
    # The earlier code gave a teacher full weight that tells little, as this one does.
    monkeypatch.setattr("hf_kd_lambda.balancing.teacher_signal.ENOUGH", 1e-9)
    checkpoint = shutil.copytree(EARLIER / "checkpoint-3", tmp_path / "checkpoint-3")
    args = config(tmp_path, **SETTINGS, restore_callback_states_from_checkpoint=rebuilds)
    trainer = make_trainer(args, *models(), examples())
    trainer.train(resume_from_checkpoint=str(checkpoint))
    # The earlier code's own end of the run, to what another processor's rounding may change.
    expected = json.loads((EARLIER / "lambdas.json").read_text())
    assert logged(trainer.state.log_history, "lambda") == pytest.approx(expected, rel=1e-4)
    for name, weight in load_file(EARLIER / "final.safetensors").items():
        torch.testing.assert_close(trainer.model.get_parameter(name).detach(), weight, rtol=1e-4, atol=1e-6)
