"""The command `distill`: settings from a YAML file and the command line, in one process or several."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.constants import HF_HUB_CACHE
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from transformers.utils import logging

from hf_kd_lambda.jobs.disk_space import disk_full_message, is_disk_full
from hf_kd_lambda.jobs.errors import TRACEBACK
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.utils.hardware import hardware

logger = logging.get_logger(__name__)


def main(argv: Sequence[str]) -> None:
    """Check the settings, then run the job.

    Args:
        argv: `[config.yaml] [--setting value ...]`, and `--num_processes N` to train with N processes.

    Raises:
        ValueError, OSError, ModuleNotFoundError: a setting is wrong; the message names it, its value and the fix.
        PushError: the Hub cannot be reached, or refuses.
        TrainingStoppedError: a signal stopped training.
    """
    num_processes, argv = split_num_processes(argv)
    if num_processes > 1 and "LOCAL_RANK" not in os.environ:
        launch(num_processes, argv)
        return
    models, data, config = parse(argv)
    logger.warning(f"training in {config.autocast} on {hardware(config.use_cpu)}, output_dir: {config.output_dir}")
    job = DistillationJob(models, data, config)
    try:
        job.check()
        job.run()
    except Exception as error:
        if is_disk_full(error):
            folders = [job.folder, job.teacher_folder, *map(Path, (HF_DATASETS_CACHE, HF_HUB_CACHE))]
            raise OSError(disk_full_message(folders, job.space, resuming(argv))) from error
        raise


def split_num_processes(argv: Sequence[str]) -> tuple[int, list[str]]:
    """Take `--num_processes N` off a command line.

    Raises:
        ValueError: N is no positive integer.
    """
    rest = list(argv)
    for index, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name.replace("-", "_") != "__num_processes":
            continue
        value = value if equals else "".join(rest[index + 1 : index + 2])
        if not value.isdigit() or int(value) < 1:
            raise ValueError(f"num_processes={value!r} must be an integer of at least 1.")
        del rest[index : index + (1 if equals else 2)]
        return int(value), rest
    return 1, rest


def launch(num_processes: int, argv: Sequence[str]) -> None:
    """Start the same command in several processes of this machine, by accelerate's launcher.

    Raises:
        ValueError: there are fewer GPUs, so that two processes would have to share one, which NCCL cannot.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser

    if 0 < (gpus := torch.cuda.device_count()) < num_processes:
        raise ValueError(f"num_processes={num_processes}: this machine has {gpus} GPUs: lower it to this number.")
    options = ["--multi_gpu", "--num_processes", str(num_processes), "--module"]
    command = ["hf_kd_lambda.cli", "distill", *argv]
    command += [TRACEBACK] if TRACEBACK in sys.argv else []  # which the command's entry has taken off the line
    try:
        launch_command(launch_command_parser().parse_args([*options, *command]))
    except ChildFailedError as error:  # the processes have printed why
        sys.exit(error.get_first_failure()[1].exitcode)
    except SignalException as stop:  # and so they have here
        sys.exit(128 + stop.sigval)


def resuming(argv: Sequence[str]) -> str:
    """The command that resumes a run of these arguments."""
    world_size = os.environ.get("WORLD_SIZE", "1")
    processes = ["--num_processes", world_size] if world_size != "1" else []
    return shlex.join(["hf-kd-lambda", "distill", *argv, *processes])
