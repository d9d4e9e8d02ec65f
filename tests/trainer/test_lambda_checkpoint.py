"""λ's state in checkpoints. With a whole run: `test_trainer_rules.py` and `jobs/test_job.py`."""

import json

import pytest
import torch
from helpers.small_runs import config
from transformers import TrainerControl, TrainerState

from hf_kd_lambda.balancing.state import Measurement
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.trainer.build_lambda import build_balancer, lambda_kind
from hf_kd_lambda.trainer.lambda_checkpoint import LambdaCheckpoint


def gram(a, b, c=0.0):
    entries = torch.tensor([a, b, c])
    return Measurement(Gram(*entries), torch.ones(2), norms=entries[:2])


def checkpoint(args, names=()):
    """The callback of a run with these settings and these groups of parameters."""
    kind = lambda_kind(args, names)
    return LambdaCheckpoint.of(build_balancer(args, names, kind), kind)


def test_settings_of_the_run_reach_the_state(tmp_path):
    settings = {"lambda_rule": "norm_ratio", "lambda_kappa": 2.0, "gram_decay": 0.0, "lambda_max_change": 0.1}
    state = checkpoint(config(tmp_path, **settings)).lambda_state
    state.update(gram(9.0, 4.0, -5.9))  # 2·3/2; the feasible interval would end at 9/5.9
    assert state.lambda_.item() == pytest.approx(3.0)
    state.update(gram(36.0, 4.0))
    assert state.lambda_.item() == pytest.approx(3.0 * 2.718281828**0.1)
    assert (state.grams.decay, state.bounds, state.form) == (0.0, (0.1, 10.0), "convex")


def test_the_callback_is_rebuilt_from_the_json_of_its_state(tmp_path):
    callback = checkpoint(config(tmp_path, lambda_kappa=0.5))
    callback.lambda_state.update(gram(4.0, 1.0, -1.0))
    saved = json.loads(json.dumps(callback.state()))
    rebuilt = type(checkpoint(config(tmp_path, lambda_kappa=0.5)))(**saved["args"])  # as the Trainer makes it
    rebuilt.on_train_begin(None, TrainerState(stateful_callbacks={"LambdaCheckpoint": saved}), TrainerControl())
    assert rebuilt.lambda_state is not callback.lambda_state
    assert rebuilt.state() == callback.state()
    assert rebuilt.lambda_state.lambda_.item() == 1.0
    for kept in (callback, rebuilt):
        kept.lambda_state.update(gram(9.0, 1.0, -1.0))
    assert rebuilt.lambda_state.lambda_ == callback.lambda_state.lambda_


@pytest.mark.parametrize(
    ("epoch", "stops", "closed"),
    [(0.4, True, False), (1.0, True, True), (1.0, False, True), (0.4, False, True), (3.5, True, False)],
)
def test_a_pass_that_was_stopped_is_not_over(tmp_path, epoch, stops, closed):
    callback = checkpoint(config(tmp_path, lambda_rule="evidence"))
    callback.on_epoch_end(None, TrainerState(epoch=epoch), TrainerControl(should_training_stop=stops))
    assert callback.lambda_state.judge.closed is closed


@pytest.mark.parametrize(
    ("was_saved", "epoch", "closed"), [(True, 1.0, True), (False, 1.0, False), (True, 3.5, False), (True, 0.0, False)]
)
def test_the_first_pass_is_over_only_if_it_was_counted_to_its_end(tmp_path, was_saved, epoch, closed):
    callback = checkpoint(config(tmp_path, lambda_rule="trust"))
    saved = {"LambdaCheckpoint": callback.state()} if was_saved else {}
    callback.on_train_begin(None, TrainerState(stateful_callbacks=saved, epoch=epoch), TrainerControl())
    assert callback.lambda_state.judge.closed is closed


def test_a_run_without_a_saved_lambda_begins_with_the_present_one(tmp_path):
    callback = checkpoint(config(tmp_path))
    callback.lambda_state.update(gram(4.0, 1.0))
    state = TrainerState(stateful_callbacks={})
    callback.on_train_begin(None, state, TrainerControl())
    assert callback.lambda_state.lambda_.item() == pytest.approx(2.0)
    assert state.stateful_callbacks["LambdaCheckpoint"] == callback.state(), "the Trainer looks it up when it saves"


@pytest.mark.parametrize("changed", [{"lambda_rule": "evidence"}, {"lambda_scope": "layer"}], ids=str)
def test_a_checkpoint_of_another_rule_or_scope_is_refused(tmp_path, changed):
    saved = json.loads(json.dumps(checkpoint(config(tmp_path)).state()))
    names = ["embeddings", "layer.0", "layer.1", "head"] if "lambda_scope" in changed else []
    callback = checkpoint(config(tmp_path, **changed), names)
    state = TrainerState(stateful_callbacks={"LambdaCheckpoint": saved})
    with pytest.raises(ValueError, match=r"in the checkpoint is of .*'adaptive'.* resume with the lambda_rule"):
        callback.on_train_begin(None, state, TrainerControl())


@pytest.mark.parametrize(
    "damaged",
    [
        {"args": None},
        {"attributes": {}},
        {"attributes": {"saved": {"lambda_": 1.0}}},
        {"attributes": {"saved": []}},
    ],
    ids=["no settings", "no state", "a part of it", "another type"],
)
def test_a_damaged_state_is_refused_with_the_fix(tmp_path, damaged):
    callback = checkpoint(config(tmp_path))
    saved = {**json.loads(json.dumps(callback.state())), **damaged}
    state = TrainerState(stateful_callbacks={"LambdaCheckpoint": saved})
    with pytest.raises(ValueError, match=r"λ's state in .*trainer_state.json is damaged .*: resume from another"):
        callback.on_train_begin(None, state, TrainerControl())


@pytest.mark.parametrize("part", ["grams", "losses"])
def test_a_state_without_one_of_its_parts_is_refused(tmp_path, part):
    callback = checkpoint(config(tmp_path))
    saved = json.loads(json.dumps(callback.state()))
    del saved["attributes"]["saved"][part]
    state = TrainerState(stateful_callbacks={"LambdaCheckpoint": saved})
    with pytest.raises(ValueError, match="is damaged"):
        callback.on_train_begin(None, state, TrainerControl())
