"""Distil a student: `accelerate launch scripts/distill.py configs/NAME.yaml [--field value ...]`."""

import os
import sys

import torch

from hf_kd_lambda.jobs.finetune import TrainingStoppedError
from hf_kd_lambda.jobs.hub import PushError
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse


def main() -> None:
    """Run the job; end with a message instead of a traceback where a setting is wrong or a signal stopped it."""
    use_all_cores()
    try:
        job = DistillationJob(*parse())
        job.check()
    except (ValueError, OSError, ModuleNotFoundError, PushError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    try:
        job.run()
    except TrainingStoppedError as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signum)
    except PushError as error:
        sys.exit(f"error: {error}")


def use_all_cores() -> None:
    """Undo what `accelerate launch` does to a lone process without an accelerator: it grants it one thread."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone and "ACCELERATE_MIXED_PRECISION" in os.environ and not torch.accelerator.is_available():
        torch.set_num_threads(os.cpu_count() or 1)


if __name__ == "__main__":
    main()
