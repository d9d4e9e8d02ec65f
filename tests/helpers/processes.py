"""Processes that tests start: scripts, a run that is killed, and two ranks that work together."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
# The package beside the tests comes first, whichever is installed.
PYTHONPATH = os.pathsep.join([str(TESTS.parent), str(TESTS)])

KILLER = """
import os, signal, sys
from transformers import TrainerCallback
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.trainer.trainer import DistillationTrainer

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

class Killed(DistillationTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(Kill)

import hf_kd_lambda.jobs.job
hf_kd_lambda.jobs.job.DistillationTrainer = Killed
job = DistillationJob(*parse(sys.argv[2:]))
job.check()
job.run()
"""
"""A job that kills itself at the end of a step, its first argument."""


def run_python(*command: str) -> subprocess.CompletedProcess:
    """Run Python with this command line, in one thread."""
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=200)


def run_two_ranks(worker: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script, which may import from the folder of tests, as two ranks on this machine."""
    env = {**os.environ, "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run([*command, str(worker), *argv], env=env, capture_output=True, text=True, timeout=280)
