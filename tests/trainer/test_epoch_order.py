"""The order of length-grouped batches."""

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from helpers.small_runs import config
from helpers.tiny import tiny_bert
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainerControl, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_kd_lambda.trainer.base_trainer import BaseTrainer
from hf_kd_lambda.trainer.epoch_order import EpochOrder


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


class Augment:
    def set_seed(self, seed):
        pass

    def __call__(self, batch):
        return batch


def test_workers_that_persist_would_not_learn_of_the_next_epoch(tmp_path):
    examples = Dataset.from_dict({"a": [1]}).with_transform(Augment())
    args = config(tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)
    with pytest.raises(ValueError, match=r"dataloader_persistent_workers=True: .* would repeat the first one's"):
        BaseTrainer(tiny_bert(3), args, train_dataset=examples)
    BaseTrainer(tiny_bert(3), args, train_dataset=examples.with_format(None))


def test_other_samplers_are_left_alone(tmp_path):
    loader = DataLoader(range(4), batch_size=2)
    EpochOrder().on_epoch_begin(config(tmp_path), TrainerState(), TrainerControl(), train_dataloader=loader)
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
