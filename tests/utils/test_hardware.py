"""Threads and precision that fit the machine."""

import psutil
import pytest
import torch

from hf_kd_lambda.utils import hardware
from hf_kd_lambda.utils.hardware import multiplies_bf16, use_usable_cores

STARTED = {"ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}
"""What accelerate's launcher sets for its process."""


class Launcher:
    """The process that started this one."""

    def __init__(self, environment=(), options=()):
        self.environ = lambda: dict(environment)
        self.cmdline = lambda: ["accelerate", "launch", *options]


class OfAnotherUser:
    """A process whose environment may not be read."""

    def cmdline(self):
        raise psutil.AccessDenied


@pytest.fixture
def threads(monkeypatch):
    """The numbers of threads that torch is set to, on a machine with 6 usable cores."""
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 6)
    return given


@pytest.mark.parametrize(
    ("environment", "launcher", "expected"),
    [
        ({}, Launcher(), [6]),
        ({"OMP_NUM_THREADS": "1"}, Launcher(), []),
        (STARTED, Launcher(), [6]),
        (STARTED | {"OMP_NUM_THREADS": "4"}, Launcher(), []),
        (STARTED, Launcher(environment={"OMP_NUM_THREADS": "1"}), []),
        (STARTED, Launcher(options=["--num_cpu_threads_per_process", "1"]), []),
        (STARTED, Launcher(options=["--num-cpu-threads-per-process=1"]), []),
        (STARTED, OfAnotherUser(), []),
        (STARTED, None, []),
    ],
)
def test_threads_that_the_user_set_stay(monkeypatch, threads, environment, launcher, expected):
    for name in STARTED:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(psutil.Process, "parent", lambda process: launcher)
    use_usable_cores()
    assert threads == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
        ({"avx2": True, "amx_bf16": False, "avx512_bf16": False}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
    ],
)
def test_a_cpu_multiplies_bf16_where_it_has_units_for_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert multiplies_bf16(use_cpu=True) is expected


@pytest.mark.parametrize("supported", [True, False])
def test_another_accelerator_is_asked(monkeypatch, supported):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(hardware, "is_torch_bf16_gpu_available", lambda: supported)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": not supported})
    assert multiplies_bf16(use_cpu=False) is supported
    assert multiplies_bf16(use_cpu=True) is not supported


def test_the_accelerator_is_named_unless_the_cpu_trains(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some GPU")
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"cpu_name": "Some CPU"})
    assert hardware.hardware() == "Some GPU"
    assert hardware.hardware(use_cpu=True).startswith("Some CPU, ")


def test_the_processor_is_named_with_its_threads(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"cpu_name": "Some CPU", "avx512_bf16": True})
    assert hardware.hardware() == f"Some CPU, avx512_bf16, {hardware.count_threads(torch.get_num_threads())}"
