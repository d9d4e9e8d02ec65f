"""Large blocks come back from glibc without being zeroed by the kernel again."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from hf_kd_lambda import DistillationTrainer  # the heap of a process that trains
from hf_kd_lambda.utils.allocator import keep_freed_memory
print(keep_freed_memory())
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 2**26 // 4096


def run(**environment):
    """Whether freed memory is kept, and the page faults of five large blocks."""
    command = [sys.executable, "-c", FAULTS]
    output = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True).stdout
    kept, faults = output.split()
    return kept == "True", int(faults)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults as Linux counts them")
def test_freed_blocks_are_used_again_unless_the_user_chose_otherwise():
    for _ in range(5):  # where something lies above the heap, it cannot grow, and glibc maps blocks anyway
        kept, faults = run()
        if not kept:
            pytest.skip("the allocator is not glibc's")
        if faults < PAGES / 20:
            break
    assert faults < PAGES / 20
    kept, faults = run(MALLOC_MMAP_THRESHOLD_="65536")
    assert not kept
    assert faults > PAGES / 600  # of huge pages, if the kernel gives such
