"""One rank of a whole job, where what the environment asks for goes wrong, or is sharded as on an accelerator."""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from helpers.process_group import leave_group
from transformers import Trainer

from hf_kd_lambda.trainer.trainer import DistillationTrainer

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))


def shard() -> None:
    """Have Accelerate shard on the CPU, as `worker.py` does, for each Trainer of the job."""
    construct = Trainer.__init__

    def sharded(self: Trainer, model: Any = None, args: Any = None, **kwargs: Any) -> None:
        assert args.world_size == 2
        known = AcceleratorState._shared_state
        PartialState().distributed_type = DistributedType.FSDP if known else DistributedType.MULTI_GPU
        construct(self, model, args, **kwargs)
        assert self.accelerator.is_fsdp2

    Trainer.__init__ = sharded


def slow() -> None:
    """Let the second rank look for the best checkpoint when the first has long found it."""
    load = Trainer._load_best_model

    def late(self: Trainer) -> None:
        assert self.args.world_size == 2
        time.sleep(self.args.process_index)
        load(self)

    Trainer._load_best_model = late


def fail() -> None:
    """Let a step go wrong on the second rank alone."""
    step = DistillationTrainer.training_step

    def failing(self: DistillationTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.args.process_index == 1:
            raise RuntimeError("out of memory")
        return step(self, *args, **kwargs)

    DistillationTrainer.training_step = failing


def main() -> None:
    {"shard": shard, "slow": slow, "fail": fail}[os.environ["JOB_WORKER"]]()
    name = sys.argv.pop(1)
    importlib.import_module(name).main()
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
