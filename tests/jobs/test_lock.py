"""Two commands on one folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hf_kd_lambda.jobs.lock import HOLDER, locked

HOLD = """
import sys, time
from pathlib import Path
from hf_kd_lambda.jobs.lock import locked
with locked("output_dir", Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder."""
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_command_is_refused_until_the_first_has_died(holder, tmp_path):
    named = rf"output_dir='.*' is in use by process {holder.pid} on host {socket.gethostname()}: wait for it"
    with pytest.raises(ValueError, match=named), locked("output_dir", tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked("output_dir", tmp_path):  # the lock of a dead process is none
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()


def test_a_second_command_waits_for_the_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_kd_lambda.jobs.lock.LONGEST_WAIT", 0.1)  # several times
    left = []

    def hold() -> None:
        with locked("teacher_dir", tmp_path):
            entered.set()
            time.sleep(0.5)
            left.append(True)

    entered = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with locked("teacher_dir", tmp_path, wait=True):
        assert left == [True]
    thread.join()


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), locked("output_dir", tmp_path):
        raise KeyError
    with locked("output_dir", tmp_path / "new" / "folder"), locked("output_dir", tmp_path):
        pass
