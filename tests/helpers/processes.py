"""Processes that tests start: scripts, a run that is killed, and two ranks that work together.

Importing torch and transformers takes seconds, so one server imports them and forks a clean process for each command.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["hf_kd_lambda.jobs.distill", "hf_kd_lambda.studies.comparison.compare"])

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


def run_python(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python with this command line, `script …`, `-m module …` or `-c program …`, in one thread."""
    return _run(command, [environment])


def run_two_ranks(worker: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a script, which may import from the folder of tests, as two ranks on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [{**group, **environment, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return _run((str(worker), *argv), ranks)


def _run(command: tuple[str, ...], environments: list[dict[str, str]]) -> subprocess.CompletedProcess:
    """Run the command in a process for each environment, as `subprocess.run` with captured output does."""
    with tempfile.TemporaryDirectory() as folder:
        output = [Path(folder, name) for name in ("stdout", "stderr")]
        for file in output:
            file.touch()
        processes = [FORK.Process(target=_main, args=(command, given, *output)) for given in environments]
        for process in processes:
            process.start()
        code = _finish(processes)
        return subprocess.CompletedProcess(command, code, *(file.read_text(errors="replace") for file in output))


def _finish(processes: list[ForkServerProcess], seconds: float = 280) -> int:
    """Wait until all have ended, or one has failed; stop the others. The exit code of the one that failed, else 0."""
    deadline = time.monotonic() + seconds
    running = list(processes)
    failed: list[int] = []
    while running and not failed and time.monotonic() < deadline:
        wait([process.sentinel for process in running], deadline - time.monotonic())
        failed = [process.exitcode for process in running if process.exitcode]
        running = [process for process in running if process.exitcode is None]
    for process in running:
        process.kill()
        process.join()
    assert failed or not running, f"not ended after {seconds} s"
    return failed[0] if failed else 0


def _main(command: tuple[str, ...], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """In the new process: what Python does with a command line."""
    for file, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    torch.set_num_threads(1)
    kind, *argv = command
    if kind == "-c":
        program, *sys.argv[1:] = argv
        exec(program, {"__name__": "__main__"})
    elif kind == "-m":
        module, *sys.argv[1:] = argv
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")
