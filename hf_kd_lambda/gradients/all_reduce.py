"""All-reduce of many tensors in few calls."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 25 * 2**20  # DDP's default: full bandwidth, little memory


def average_over_ranks(tensors: Sequence[Tensor]) -> None:
    """All-reduce tensors to their mean over ranks, in place.

    Args:
        tensors: the same shapes and layouts on all ranks, in the same order; of sparse ones, ranks exchange rows.
    """
    sparse = [[tensor] for tensor in tensors if tensor.is_sparse]
    for bucket in [*sparse, *_buckets([tensor for tensor in tensors if not tensor.is_sparse])]:
        _average_bucket(bucket)


def _average_bucket(bucket: list[Tensor]) -> None:
    if len(bucket) == 1:
        dist.all_reduce(bucket[0])
        bucket[0].div_(dist.get_world_size())
        return
    flat = torch.cat([tensor.flatten() for tensor in bucket])
    dist.all_reduce(flat)
    flat.div_(dist.get_world_size())
    parts = flat.split([tensor.numel() for tensor in bucket])
    torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive tensors of one dtype, at most `BUCKET_BYTES` in total unless one tensor alone is larger."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        full = size + tensor.nbytes > BUCKET_BYTES
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
