"""One rank of a two-process run; rank 0 writes the log and the gathered weights for the test that launched it."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from small_runs import config, examples, models, train


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    model_settings = settings.pop("models", {})
    args = config(folder / "run", **settings)
    assert args.world_size == dist.get_world_size() == 2
    teacher, student = models(**model_settings)
    trainer = train(args, teacher, student, examples())
    weights = {}
    for name, parameter in trainer.model.named_parameters():
        full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        weights[name.removeprefix("module.")] = full.detach().contiguous().clone()
    if dist.get_rank() == 0:
        save_file(weights, folder / "weights.safetensors")
        (folder / "log.json").write_text(json.dumps(trainer.state.log_history))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
