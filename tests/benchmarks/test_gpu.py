"""The check of speed and memory on a GPU: all of it but the GPU."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.end_to_end import gemm_peak
from benchmarks.gpu import ON_CPU, ON_GPU, TINY, check, table
from benchmarks.steps import KINDS, measure, measure_alone

ROOT = Path(__file__).parents[2]


def in_this_process(setting, rounds, launcher, limit):
    return measure(setting, rounds)


def test_a_case_has_figures_of_all_kinds_of_steps():
    (record,) = check({"tiny": TINY}, 1, {"fp32": gemm_peak("fp32", 64, 2)}, measure=in_this_process)
    assert record["case"] == "tiny"
    assert record["hidden"] == 24
    assert record["measuring_step_ratio"] > 0
    assert 0 < record["model_flops_utilisation"] < 1
    assert (record["sharded"], record["loss_scale"]) == (False, None)
    assert table([record]).splitlines()[2].startswith("| tiny | ")


def measured(setting, rounds, launcher, limit):
    """What a machine measures whose online steps take 4 s, cached ones 1 s, and measuring ones twice as long."""
    seconds = {kind: [(4.0 if "online" in kind else 1.0) * (2 if "measuring" in kind else 1)] for kind in KINDS}
    peaks = {kind: [3.0 if kind == "online_measuring" else 2.0] for kind in KINDS}
    found = {"setting": setting.__dict__, "parameters": 10, "non_embedding_parameters": 5, "loss_scale": 1024.0}
    return found | {"seconds": seconds, "peak_mb": peaks, "sharded": bool(launcher)}


def test_the_table_has_the_ratios_memory_and_utilisation():
    setting = replace(TINY, batch=10, length=10, precision="fp16")
    records = list(check({"a": setting, "b": replace(setting, shard=True)}, 1, {"fp16": 12_000.0}, measure=measured))
    assert table(records).splitlines()[2:] == [
        f"| {name} | 4000.0 | 2.00 | 1.125 | 0.25 | 1 | 3 | 25% |" for name in ("a", "b")
    ]
    assert [record["sharded"] for record in records] == [False, True]
    assert records[0]["loss_scale"] == 1024.0


TORCHRUN = """Traceback (most recent call last):
  a line
RuntimeError: no | memory
E1129 elastic/multiprocessing/api.py:984] failed (exitcode: 1)
============================================================
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
"""


def test_a_case_that_fails_or_takes_too_long_does_not_end_the_others():
    def fails(setting, rounds, launcher, limit):
        if setting.shard:
            raise subprocess.CalledProcessError(1, "python", stderr=TORCHRUN)
        if setting.compile:
            raise subprocess.TimeoutExpired("python", limit)
        if setting.batch == 3:
            raise FileNotFoundError("figures.json")
        return measured(setting, rounds, launcher, limit)

    cases = {"a": replace(TINY, shard=True), "b": replace(TINY, compile=True), "c": replace(TINY, batch=3), "d": TINY}
    first, second, third, last = check(cases, 1, {"fp32": 1.0}, measure=fails)
    assert first["error"] == "RuntimeError: no | memory"
    assert first["stderr"] == TORCHRUN
    assert second["error"] == "not finished after 120 s"
    assert third["error"] == "FileNotFoundError: figures.json"
    assert "error" not in last
    assert table([first]).count("|") == table([last]).count("|")


def test_no_process_of_a_case_outlives_its_time(tmp_path):
    """Not even one that a launcher has started in a session of its own."""
    written = tmp_path / "pid"
    worker = f"import os, pathlib, time; pathlib.Path({str(written)!r}).write_text(str(os.getpid())); time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}], start_new_session=True)"
    with pytest.raises(subprocess.TimeoutExpired):
        measure_alone(TINY, 1, [sys.executable, "-c", launcher], limit=3)
    pid = int(written.read_text())
    with suppress(psutil.NoSuchProcess):  # a process that is killed ends soon, not at once
        for _ in range(100):
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.1)
        pytest.fail(f"process {pid} still runs")


@pytest.mark.slow
def test_the_script_measures_tiny_models_on_a_cpu(tmp_path):
    command = [str(ROOT / "scripts" / "gpu_check.sh"), "--rounds", "1", "--output", "here"]
    result = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "here" / "gpu.json").read_text())
    assert [case["case"] for case in found["cases"]] == list(ON_CPU)
    assert not any("error" in case for case in found["cases"])
    assert (tmp_path / "here" / "gpu.md").read_text() in result.stdout


def test_nothing_starts_after_the_last_second():
    (record,) = check({"a": TINY}, 1, {"fp32": 1.0}, seconds=0, measure=lambda *_: pytest.fail("started"))
    assert record["error"] == "no time left"


def test_on_a_gpu_all_that_the_cpu_cannot_show_is_measured():
    cases = ON_GPU.values()
    assert {case.precision for case in cases} == {"fp32", "bf16", "fp16"}
    assert any(case.compile for case in cases)
    assert any(case.shard for case in cases)
    assert not any(case.compile or case.shard or case.precision == "fp16" for case in ON_CPU.values())
