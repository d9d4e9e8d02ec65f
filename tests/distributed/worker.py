"""One rank of a two-process run; rank 0 writes the log and the gathered weights for the test that launched it."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from helpers.process_group import leave_group
from helpers.small_runs import config, examples, models, narrow_student, train
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    model_settings, narrow = settings.pop("models", {}), settings.pop("narrow", False)
    args = config(folder / "run", **settings)
    assert args.world_size == dist.get_world_size() == 2
    if args.fsdp:
        # Accelerate shards on accelerators only, and else trains with DDP without a word. FSDP2 itself runs on gloo.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    teacher, student = models(**model_settings)
    trainer = train(args, teacher, narrow_student() if narrow else student, examples())
    assert trainer.is_fsdp_enabled == bool(args.fsdp)
    weights = {}
    for name, parameter in trainer.model.named_parameters():
        assert isinstance(parameter, DTensor) == bool(args.fsdp)
        full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        weights[name.removeprefix("module.")] = full.detach().contiguous().clone()
    if dist.get_rank() == 0:
        save_file(weights, folder / "weights.safetensors")
        (folder / "log.json").write_text(json.dumps(trainer.state.log_history))
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
