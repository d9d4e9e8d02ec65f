"""The order of training batches, whose lengths are read at once, is the Trainer's own; and signals to its workers."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import config, examples
from helpers.tiny import tiny_bert
from transformers import Trainer, TrainerCallback

from hf_kd_lambda.trainer.base_trainer import BaseTrainer, _begin_worker


def ragged():
    data = examples()
    tokens = [row[: 1 + number % len(row)] for number, row in enumerate(data["input_ids"])]
    return data.remove_columns(["input_ids", "attention_mask"]).add_column("input_ids", tokens)


def trainer_of(folder, data, strategy="group_by_length"):
    args = config(folder, train_sampling_strategy=strategy, gradient_accumulation_steps=2)
    return BaseTrainer(tiny_bert(3), args, train_dataset=data)


def with_other_lengths(data):
    return data.add_column("length", list(range(len(data))))


@pytest.mark.parametrize("view", [lambda data: data, lambda data: data.with_format("torch"), with_other_lengths])
def test_lengths_are_those_that_the_trainer_reads_from_the_examples(tmp_path, view):
    data = view(ragged())
    trainer = trainer_of(tmp_path, data)
    ours, theirs = trainer._get_train_sampler(data), Trainer._get_train_sampler(trainer, data)
    assert type(ours) is type(theirs)
    assert ours.batch_size == theirs.batch_size
    assert ours.lengths == list(theirs.lengths)
    assert len(set(ours.lengths)) > 1
    orders = [list(sampler) for sampler in (ours, theirs) if torch.manual_seed(0)]
    assert orders[0] == orders[1]


def test_examples_are_not_read_one_by_one(tmp_path, monkeypatch):
    data = examples()
    trainer = trainer_of(tmp_path, data)
    monkeypatch.setattr(Dataset, "__iter__", lambda _: pytest.fail("all examples were read"))
    assert len(trainer._get_train_sampler(data)) == len(data)


def test_other_orders_are_left_to_the_trainer(tmp_path):
    trainer = trainer_of(tmp_path, examples(), "random")
    assert not hasattr(trainer._get_train_sampler(), "lengths")


class SignalAll(TrainerCallback):
    """Has another process signal this one and its data workers at the end of the third step, as a scheduler does."""

    def __init__(self, number):
        self.number = number

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            workers = multiprocessing.active_children()
            assert len(workers) >= 2
            group = [*[worker.pid for worker in workers], os.getpid()]
            subprocess.run(["kill", f"-{self.number.value}", *map(str, group)], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_to_the_whole_group_ends_with_a_checkpoint(tmp_path, number):
    args = config(tmp_path, dataloader_num_workers=2, num_train_epochs=9, save_strategy="epoch")
    data = examples(9 * 8)
    trainer = BaseTrainer(tiny_bert(3), args, train_dataset=data, callbacks=[SignalAll(number)])
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stop:
        trainer.train()
    assert stop.type is (KeyboardInterrupt if number is signal.SIGINT else SystemExit)
    assert stop.type is KeyboardInterrupt or stop.value.code == 128 + number
    assert trainer.signal_received is number
    assert (tmp_path / f"checkpoint-{trainer.state.global_step}" / "model.safetensors").is_file()
    assert trainer.state.global_step < 9


class InterruptInStep(TrainerCallback):
    """Ctrl-C, once or twice, in the second step."""

    def __init__(self, times):
        self.times = times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("times", [1, 2])
def test_an_interruption_that_saves_nothing_leaves_nothing_behind(tmp_path, monkeypatch, times):
    data, callbacks = examples(24), [InterruptInStep(times)]
    args = config(tmp_path, save_total_limit=2)
    trainer = BaseTrainer(tiny_bert(3), args, train_dataset=data, eval_dataset=data, callbacks=callbacks)

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(trainer, "save_model", full)
    with pytest.raises(OSError if times == 1 else KeyboardInterrupt):
        trainer.train()
    trainer.evaluate()
    assert trainer.args.save_total_limit == 2


def test_a_worker_ends_for_its_parent_alone(tmp_path):
    args = config(tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    loader = BaseTrainer(tiny_bert(3), args, train_dataset=examples()).get_train_dataloader()
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(5)
    assert not worker.is_alive()


def test_a_worker_ends_for_the_owner_of_its_loader_that_is_not_its_parent():
    context = multiprocessing.get_context("fork")
    listens = context.Event()
    with subprocess.Popen(
        ["sh", "-c", "read worker && kill -TERM $worker"], stdin=subprocess.PIPE, text=True
    ) as owner:

        def work():
            _begin_worker(None, owner.pid, 0)
            listens.set()
            time.sleep(60)

        worker = context.Process(target=work)
        worker.start()
        assert listens.wait(5)
        worker.terminate()  # by its parent, as a server of processes is
        worker.join(0.2)
        assert worker.is_alive()
        owner.communicate(f"{worker.pid}\n")
        worker.join(5)
        assert worker.exitcode == 0


def test_what_is_evaluated_and_predicted_is_in_order(tmp_path):
    args = config(tmp_path, dataloader_in_order=False, dataloader_num_workers=2)
    trainer = BaseTrainer(tiny_bert(3), args, train_dataset=examples())
    loaders = [trainer.get_train_dataloader(), trainer.get_eval_dataloader(examples())]
    loaders.append(trainer.get_test_dataloader(examples()))
    assert [loader.in_order for loader in loaders] == [False, True, True]


def test_a_training_that_fails_leaves_no_signal_handler(tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trainer = BaseTrainer(tiny_bert(3), config(tmp_path), train_dataset=examples())
    monkeypatch.setattr(Trainer, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
