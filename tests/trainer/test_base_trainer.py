"""The order of training batches, whose lengths are read at once, is the Trainer's own."""

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import config, examples
from helpers.tiny import tiny_bert
from transformers import Trainer

from hf_kd_lambda.trainer.base_trainer import BaseTrainer


def ragged():
    data = examples()
    tokens = [row[: 1 + number % len(row)] for number, row in enumerate(data["input_ids"])]
    return data.remove_columns(["input_ids", "attention_mask"]).add_column("input_ids", tokens)


def trainer_of(folder, data, strategy="group_by_length"):
    return BaseTrainer(tiny_bert(3), config(folder, train_sampling_strategy=strategy), train_dataset=data)


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
