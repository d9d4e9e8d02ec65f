"""One rank of two that train CNNs; each writes their running statistics for the test that launched it."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from helpers.process_group import leave_group
from helpers.small_runs import config, train
from helpers.tiny_images import NARROW, WIDE, batch_norms, tensors, tiny_classifier
from safetensors.torch import save_file


def main() -> None:
    folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name, settings in runs.items():
        args = config(folder / name, **settings)
        assert args.world_size == dist.get_world_size() == 2
        trainer = train(args, tiny_classifier(WIDE), tiny_classifier(NARROW, seed=1), tensors(48))
        save_file(batch_norms(trainer.model), folder / f"{name} {dist.get_rank()}.safetensors")
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
