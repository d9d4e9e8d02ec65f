"""What the machine offers: cores that this process may use, and units that multiply bf16."""

import os
import platform

import joblib
import psutil
import torch
from transformers.utils import is_torch_bf16_gpu_available

# The names of torch's capabilities: Intel's matrix units, AVX-512 of Intel and AMD, Arm.
BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")


def usable_cores() -> int:
    """Physical cores that this process may use, by its CPU affinity and the quota of its container."""
    return joblib.cpu_count(only_physical_cores=True)


def use_usable_cores() -> None:
    """Let torch use all cores that this process may use, unless the user has set a number of threads.

    torch counts the cores of the machine, which may be more than a container's quota. `accelerate launch` sets one
    thread for a single process without an accelerator, whether or not the user has asked for one.
    """
    if not _threads_are_set():
        torch.set_num_threads(usable_cores())


def multiplies_bf16(use_cpu: bool) -> bool:
    """Whether the training device multiplies bf16 in hardware; where bf16 is emulated, it is slower than fp32.

    Args:
        use_cpu: train on the CPU, whatever accelerator there is.
    """
    if use_cpu or not torch.accelerator.is_available():
        return _bf16_units() is not None
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return is_torch_bf16_gpu_available()


def hardware() -> str:
    """The accelerator's name, or the processor's with its units for bf16 and the number of threads used."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = torch.cpu.get_capabilities().get("cpu_name", platform.machine())
    return ", ".join([name, *filter(None, [_bf16_units()]), f"{torch.get_num_threads()} thread(s)"])


def _bf16_units() -> str | None:
    """The processor's units that multiply bf16, by torch's name; None where it has none."""
    capabilities = torch.cpu.get_capabilities()
    return next((unit for unit in BF16_UNITS if capabilities.get(unit)), None)


def _threads_are_set() -> bool:
    """Whether the user has given `OMP_NUM_THREADS`, or accelerate's launcher a number of threads."""
    if "OMP_NUM_THREADS" not in os.environ:
        return False
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:  # the launcher has not started this process
        return True
    try:
        launcher = psutil.Process().parent()
        if launcher is None:
            return True
        options = " ".join(launcher.cmdline()).replace("-", "_")
        return "OMP_NUM_THREADS" in launcher.environ() or "num_cpu_threads_per_process" in options
    except psutil.Error:  # it is another user's
        return True
