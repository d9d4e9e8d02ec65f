"""Tensors averaged over ranks, in buckets."""

import torch

from hf_kd_lambda.gradients import all_reduce


def test_buckets_are_filled_in_order_up_to_their_size(monkeypatch):
    monkeypatch.setattr(all_reduce, "BUCKET_BYTES", 40)
    grads = [torch.zeros(size) for size in (4, 6, 1, 20, 2)]
    assert [[g.numel() for g in bucket] for bucket in all_reduce._buckets(grads)] == [[4, 6], [1], [20], [2]]


def test_buckets_hold_one_dtype():
    grads = [torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2)]
    assert [len(bucket) for bucket in all_reduce._buckets(grads)] == [2, 1, 1]


def test_no_gradients_make_no_bucket():
    assert list(all_reduce._buckets([])) == []


def test_a_bucket_is_averaged_in_place(monkeypatch):
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda tensor: tensor.mul_(6)
    )  # as if other ranks had 5 times
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    grads = [torch.ones(2, 3), torch.full((4,), 2.0)]
    all_reduce._average_bucket(grads)
    all_reduce._average_bucket(grads[1:])
    assert grads[0].eq(2).all()
    assert grads[1].eq(8).all()
    assert grads[0].shape == (2, 3)
