"""How the workers of multi-process tests end."""

import time

import torch.distributed as dist


def leave_group() -> None:
    """Wait for all ranks, then leave the process group."""
    dist.barrier()
    # Torch 2.13 deadlocks where a group is destroyed while gloo's thread waits for the GIL to free a collective.
    time.sleep(0.1)
    dist.destroy_process_group()
