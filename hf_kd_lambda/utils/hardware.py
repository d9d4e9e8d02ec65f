"""The machine's resources: usable cores, memory, and hardware support for bf16."""

import os
import platform
from pathlib import Path

import joblib
import psutil
import torch
from transformers.utils import is_torch_bf16_gpu_available

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
# torch's names of CPU capabilities: Intel AMX, AVX-512 (Intel and AMD), Arm.
BF16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")


def usable_cores() -> int:
    """Number of physical cores that this process may use, given its CPU affinity and its container's quota."""
    return joblib.cpu_count(only_physical_cores=True)


def use_usable_cores() -> None:
    """Set torch's threads to the usable cores, unless the user has set a number of threads.

    torch counts the cores of the machine, which may be more than a container's quota. `accelerate launch` sets one
    thread for a single process without an accelerator, even if the user did not ask for it.
    """
    if not _threads_are_set():
        torch.set_num_threads(usable_cores())


def memory(device: torch.device | None = None) -> int:
    """Bytes of memory of a CUDA device; by default those that this process may use of the machine's.

    The limit of a container is in the file system; versions 1 and 2 of cgroups differ in the place.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [int(text) for path in _MEMORY_LIMITS if path.is_file() and (text := path.read_text().strip()).isdigit()]
    return min([psutil.virtual_memory().total, *limits])


def multiplies_bf16(use_cpu: bool) -> bool:
    """Whether the training device multiplies bf16 in hardware. Emulated bf16 is slower than fp32.

    Args:
        use_cpu: whether training runs on the CPU even if there is an accelerator.
    """
    if use_cpu or not torch.accelerator.is_available():
        return _bf16_units() is not None
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return is_torch_bf16_gpu_available()


def hardware(use_cpu: bool = False) -> str:
    """Name of the accelerator, or of the processor with its bf16 support and the number of threads.

    Args:
        use_cpu: whether training runs on the CPU even if there is an accelerator.
    """
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.get_device_name()
    if torch.accelerator.is_available() and not use_cpu:
        return str(torch.accelerator.current_accelerator())
    name = torch.cpu.get_capabilities().get("cpu_name", platform.machine())
    return ", ".join([name, *filter(None, [_bf16_units()]), count_threads(torch.get_num_threads())])


def count_threads(number: int | str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number} thread{'' if str(number) == '1' else 's'}"


def _bf16_units() -> str | None:
    """torch's name of the CPU capability that multiplies bf16; None without one."""
    capabilities = torch.cpu.get_capabilities()
    return next((unit for unit in BF16_UNITS if capabilities.get(unit)), None)


def _threads_are_set() -> bool:
    """Whether the user has set `OMP_NUM_THREADS`, or a number of threads for accelerate's launcher."""
    if (threads := os.environ.get("OMP_NUM_THREADS")) is None:
        return False
    if threads != "1":  # which is the launcher's default
        return True
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:  # the launcher has not started this process
        return True
    try:
        launcher = psutil.Process().parent()
        if launcher is None:
            return True
        options = " ".join(launcher.cmdline()).replace("-", "_")
        return "OMP_NUM_THREADS" in launcher.environ() or "num_cpu_threads_per_process" in options
    except psutil.Error:  # the launcher belongs to another user
        return True
