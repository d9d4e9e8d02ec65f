"""λ's state in checkpoints, and what happens on a signal. With a whole run: `test_trainer.py`, `test_pipeline.py`."""

import json
import os
import signal
import threading

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from helpers.small_runs import config
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_kd_lambda.balancing.state import Measurement
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.trainer import save_on_signal
from hf_kd_lambda.trainer.epoch_order import EpochOrder
from hf_kd_lambda.trainer.lambda_checkpoint import LambdaCheckpoint
from hf_kd_lambda.trainer.save_on_signal import SaveOnSignal, signal_received
from hf_kd_lambda.trainer.setup import build_balancer, lambda_settings

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def gram(a, b, c=0.0):
    return Measurement(Gram(torch.tensor(a), torch.tensor(b), torch.tensor(c)), torch.ones(2))


# --- λ in the checkpoint


def checkpoint(args, names=()):
    """The callback of a run with these settings and these groups of parameters."""
    settings = lambda_settings(args, names)
    return LambdaCheckpoint.of(build_balancer(args, names, settings), settings)


@pytest.mark.parametrize(
    ("form", "weight", "expected"),
    [("convex", 0.5, 1.0), ("convex", 0.75, 3.0), ("convex", 1, 8.0), ("convex", 0, 0.2), ("additive", 2, 2.0)],
)
def test_lambda_starts_from_kd_weight(tmp_path, form, weight, expected):
    args = config(tmp_path, lambda_form=form, kd_weight=weight, lambda_min=0.2, lambda_max=8.0)
    assert checkpoint(args).lambda_state.lambda_.item() == pytest.approx(expected)


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


# --- signals


@pytest.fixture
def args(tmp_path):
    return config(tmp_path)


@pytest.fixture
def listening(args):
    """A callback whose training has begun."""
    handlers = [signal.getsignal(number) for number in SIGNALS]
    callback = SaveOnSignal()
    callback.on_train_begin(args, TrainerState(), TrainerControl())
    yield callback
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_saves_and_stops_at_the_end_of_the_step(listening, args, number):
    control = TrainerControl()
    listening.on_step_end(args, TrainerState(), control)
    assert not control.should_training_stop
    os.kill(os.getpid(), number)
    assert not control.should_training_stop, "the step goes on to its end"
    listening.on_step_end(args, TrainerState(), control)
    assert control.should_save
    assert control.should_training_stop
    assert signal_received([TrainerCallback(), listening]) is number


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_second_signal_interrupts_at_once(listening, number):
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_a_signal_after_another_ranks_is_this_ones_first(listening, args, monkeypatch):
    monkeypatch.setattr(save_on_signal.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(save_on_signal.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(save_on_signal.dist, "all_reduce", lambda number, op: number.fill_(signal.SIGTERM.value))
    control = TrainerControl()
    listening.on_step_end(args, TrainerState(), control)
    assert control.should_save
    assert listening.received is signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # a launcher tells the ranks one after the other
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_was_stopped_leaves_the_limit_of_checkpoints(listening, args):
    args.save_total_limit = 2
    listening.on_train_begin(args, TrainerState(), TrainerControl())
    os.kill(os.getpid(), signal.SIGINT)
    listening.on_step_end(args, TrainerState(), TrainerControl())
    assert args.save_total_limit is None
    listening.on_train_end(args, TrainerState(), TrainerControl())
    assert args.save_total_limit == 2


def test_handlers_go_back_to_whom_they_belonged(args):
    def own(number, frame):
        raise AssertionError

    of_interrupt, before = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGTERM, own)
    try:
        callback = SaveOnSignal()
        for _ in range(2):  # the Trainer begins again when it finds a batch size by trial
            callback.on_train_begin(args, TrainerState(), TrainerControl())
        assert signal.getsignal(signal.SIGTERM) != own
        callback.on_train_end(args, TrainerState(), TrainerControl())
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGINT) is of_interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_new_run_forgets_the_signal_of_the_last_one(listening, args):
    os.kill(os.getpid(), signal.SIGINT)
    listening.on_step_end(args, TrainerState(), TrainerControl())
    assert listening.received is signal.SIGINT
    listening.on_train_begin(args, TrainerState(), TrainerControl())
    assert listening.received is None
    control = TrainerControl()
    listening.on_step_end(args, TrainerState(), control)
    assert not control.should_training_stop


def test_a_signal_in_the_last_evaluation_saves_what_was_trained(listening, args):
    control = TrainerControl()
    os.kill(os.getpid(), signal.SIGTERM)
    listening.on_evaluate(args, TrainerState(), control)
    assert control.should_save
    assert listening.received is signal.SIGTERM


def test_where_the_best_alone_is_saved_a_stop_is_saved_before_it_is_evaluated(listening, tmp_path):
    best = {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "task_loss"}
    args, control = config(tmp_path, **best), TrainerControl(should_evaluate=True)
    os.kill(os.getpid(), signal.SIGTERM)
    listening.on_evaluate(args, TrainerState(), control)
    assert not control.should_training_stop
    listening.on_step_end(args, TrainerState(), control)
    assert (control.should_save, control.should_training_stop, control.should_evaluate) == (True, True, False)


def test_a_signal_after_the_last_evaluation_ends_nothing(listening, args):
    os.kill(os.getpid(), signal.SIGTERM)
    listening.on_train_end(args, TrainerState(), TrainerControl())
    assert listening.received is None
    listening.on_evaluate(args, TrainerState(), TrainerControl())  # of a trained model, by its user
    assert listening.received is None


def test_outside_the_main_thread_training_goes_without_signals(args):
    before, errors = signal.getsignal(signal.SIGTERM), []

    def begin_and_end():
        callback = SaveOnSignal()
        try:
            callback.on_train_begin(args, TrainerState(), TrainerControl())
            callback.on_train_end(args, TrainerState(), TrainerControl())
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=begin_and_end)
    thread.start()
    thread.join()
    assert errors == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_without_the_callback_was_stopped_by_no_signal():
    assert signal_received([TrainerCallback()]) is None


@pytest.mark.parametrize(("epoch", "step", "cut_short"), [(0.5, 3, True), (1.0, 6, False), (1.5, 9, True)])
def test_an_epoch_cut_short_is_not_evaluated(listening, args, epoch, step, cut_short):
    os.kill(os.getpid(), signal.SIGINT)
    listening.on_step_end(args, TrainerState(), TrainerControl())
    control = TrainerControl(should_evaluate=True, should_save=True)
    listening.on_epoch_end(args, TrainerState(epoch=epoch, global_step=step, max_steps=12), control)
    assert control.should_evaluate is not cut_short
    assert control.should_save is not cut_short


def test_an_epoch_is_evaluated_without_a_signal(listening, args):
    control = TrainerControl(should_evaluate=True, should_save=True)
    listening.on_epoch_end(args, TrainerState(epoch=0.5, global_step=3, max_steps=12), control)
    assert control.should_evaluate
    assert control.should_save


# --- the order of length-grouped batches


def order(sampler, args, epoch, dataloader=None):
    loader = dataloader or DataLoader(range(40), batch_sampler=BatchSampler(sampler, 4, drop_last=False))
    state = TrainerState(epoch=epoch)
    EpochOrder().on_epoch_begin(args, state, TrainerControl(), train_dataloader=loader)
    return list(sampler)


def test_the_order_depends_on_seed_and_epoch_alone(tmp_path):
    sampler = LengthGroupedSampler(4, lengths=list(range(40)))
    args = config(tmp_path, seed=1)
    first = order(sampler, args, 0.0)
    torch.rand(7)
    assert order(sampler, args, 1.0) != first
    assert order(sampler, args, 1.25) == order(sampler, args, 1.0)  # resumed in the middle of the second epoch
    assert order(sampler, args, 0.0) == first
    assert order(sampler, config(tmp_path, seed=2), 0.0) != first
    assert order(sampler, config(tmp_path, seed=2, data_seed=1), 0.0) == first


def test_the_sampler_is_found_below_what_accelerate_puts_around_it(tmp_path):
    sampler = LengthGroupedSampler(4, lengths=list(range(40)))
    shard = BatchSamplerShard(BatchSampler(sampler, 4, drop_last=False), num_processes=2)
    args = config(tmp_path)
    loader = DataLoader(range(40), batch_sampler=shard)
    assert order(sampler, args, 0.0, loader) == order(sampler, args, 0.0)


def test_other_samplers_are_left_alone(tmp_path):
    loader = DataLoader(range(4), batch_size=2)
    EpochOrder().on_epoch_begin(config(tmp_path), TrainerState(), TrainerControl(), train_dataloader=loader)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
