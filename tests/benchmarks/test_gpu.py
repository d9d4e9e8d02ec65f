"""The check of speed and memory on a GPU: all of it but the GPU."""

import subprocess
from dataclasses import replace

import pytest

from benchmarks.end_to_end import gemm_peak
from benchmarks.gpu import ON_CPU, ON_GPU, TINY, check, table
from benchmarks.steps import KINDS, measure


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
    records = check({"a": setting, "b": replace(setting, shard=True)}, 1, {"fp16": 12_000.0}, measure=measured)
    assert table(records).splitlines()[2:] == [
        f"| {name} | 4000.0 | 2.00 | 1.125 | 0.25 | 1 | 3 | 25% |" for name in ("a", "b")
    ]
    assert [record["sharded"] for record in records] == [False, True]
    assert records[0]["loss_scale"] == 1024.0


def test_a_case_that_fails_or_takes_too_long_does_not_end_the_others():
    def fails(setting, rounds, launcher, limit):
        if setting.shard:
            raise subprocess.CalledProcessError(1, "python", stderr="Traceback\n  a line\nRuntimeError: no | memory\n")
        if setting.compile:
            raise subprocess.TimeoutExpired("python", limit)
        return measured(setting, rounds, launcher, limit)

    cases = {"a": replace(TINY, shard=True), "b": replace(TINY, compile=True), "c": TINY}
    first, second, third = check(cases, 1, {"fp32": 1.0}, measure=fails)
    assert first["error"].endswith("RuntimeError: no | memory")
    assert second["error"] == "no time left"
    assert "error" not in third
    assert table([first]).count("|") == table([third]).count("|")


def test_nothing_starts_after_the_last_second():
    (record,) = check({"a": TINY}, 1, {"fp32": 1.0}, seconds=0, measure=lambda *_: pytest.fail("started"))
    assert record["error"] == "no time left"


def test_on_a_gpu_all_that_the_cpu_cannot_show_is_measured():
    cases = ON_GPU.values()
    assert {case.precision for case in cases} == {"fp32", "bf16", "fp16"}
    assert any(case.compile for case in cases)
    assert any(case.shard for case in cases)
    assert not any(case.compile or case.shard or case.precision == "fp16" for case in ON_CPU.values())
