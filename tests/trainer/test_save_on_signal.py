"""What happens on a signal. With a whole run: `test_trainer.py` and `test_base_trainer.py`."""

import os
import signal
import threading

import pytest
from helpers.small_runs import config
from transformers import TrainerControl, TrainerState

from hf_kd_lambda.trainer import save_on_signal
from hf_kd_lambda.trainer.save_on_signal import SaveOnSignal

SIGNALS = [signal.SIGINT, signal.SIGTERM]


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
    assert listening.received is number


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_second_signal_interrupts_at_once(listening, args, number):
    os.kill(os.getpid(), signal.SIGTERM)
    listening.on_step_end(args, TrainerState(), TrainerControl())
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert listening.received is None, "a checkpoint may be half written"


def test_a_signal_after_another_ranks_is_this_ones_first(listening, args, monkeypatch):
    def all_reduce(number, op):
        assert op == save_on_signal.dist.ReduceOp.MAX, "the signals are the larger numbers"
        number.fill_(signal.SIGTERM.value)

    monkeypatch.setattr(save_on_signal.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(save_on_signal.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(save_on_signal.dist, "all_reduce", all_reduce)
    control = TrainerControl()
    listening.on_step_end(args, TrainerState(), control)
    assert control.should_save
    assert listening.received is signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # a launcher tells the ranks one after the other
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_was_stopped_leaves_the_limit_of_checkpoints(listening, args):
    listening.end(args)
    args.save_total_limit = 2
    listening.on_train_begin(args, TrainerState(), TrainerControl())
    os.kill(os.getpid(), signal.SIGINT)
    listening.on_step_end(args, TrainerState(), TrainerControl())
    assert args.save_total_limit is None
    listening.on_train_begin(args, TrainerState(), TrainerControl())  # again, where memory ran out
    assert args.save_total_limit == 2
    os.kill(os.getpid(), signal.SIGINT)
    listening.on_step_end(args, TrainerState(), TrainerControl())
    listening.on_train_end(args, TrainerState(), TrainerControl())
    assert args.save_total_limit == 2


def test_a_handler_that_python_did_not_set_stays(listening, args, monkeypatch):
    listening.end(args)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    listening.on_train_begin(args, TrainerState(), TrainerControl())
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is before


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
    assert not control.should_training_stop, "before the first step, where there is nothing to save"
    listening.on_evaluate(args, TrainerState(global_step=3), control)
    assert control.should_save
    assert listening.received is signal.SIGTERM


def test_where_the_best_alone_is_saved_a_stop_is_saved_before_it_is_evaluated(listening, tmp_path):
    best = {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "task_loss"}
    args, control = config(tmp_path, **best), TrainerControl(should_evaluate=True)
    os.kill(os.getpid(), signal.SIGTERM)
    listening.on_evaluate(args, TrainerState(global_step=3), control)
    assert not control.should_training_stop
    listening.on_step_end(args, TrainerState(), control)
    assert (control.should_save, control.should_training_stop, control.should_evaluate) == (True, True, False)


def test_a_signal_after_the_last_evaluation_ends_nothing(listening, args):
    os.kill(os.getpid(), signal.SIGTERM)
    listening.on_train_end(args, TrainerState(), TrainerControl())
    assert listening.received is None
    listening.on_evaluate(args, TrainerState(global_step=3), TrainerControl())  # of a trained model, by its user
    assert listening.received is None


def test_outside_the_main_thread_training_goes_without_signals(args):
    before, errors = signal.getsignal(signal.SIGTERM), []

    def begin_and_end():
        callback = SaveOnSignal()
        try:
            callback.on_train_begin(args, TrainerState(), TrainerControl())
            callback.on_train_end(args, TrainerState(), TrainerControl())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=begin_and_end)
    thread.start()
    thread.join()
    assert errors == []
    assert signal.getsignal(signal.SIGTERM) is before


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
