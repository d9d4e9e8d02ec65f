"""Two gloo processes whose gradients are averaged, measured, rid of noise and combined, group by group."""

import os
import subprocess
import sys
from pathlib import Path


def test_ranks_and_shards_measure_what_one_process_would():
    worker = Path(__file__).with_name("gradient_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(worker)]
    env = {**os.environ, "PYTHONPATH": str(worker.parents[1]), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("agrees") == 2
