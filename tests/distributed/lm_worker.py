"""One rank of two that train a language model on rows of unlike lengths; rank 0 writes what its test compares."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from helpers.process_group import leave_group
from helpers.tiny_lm import language_models, lm_trainer, rows
from safetensors.torch import save_file


def main() -> None:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    trainer = lm_trainer(folder / "run", *language_models("gpt2"), **settings)
    assert dist.get_world_size() == 2
    trainer.train()
    metrics = trainer.evaluate(rows(12))
    if dist.get_rank() == 0:
        weights = {name: each.detach().clone() for name, each in trainer.model.named_parameters()}
        save_file(weights, folder / "weights.safetensors")
        (folder / "log.json").write_text(json.dumps({"history": trainer.state.log_history, "metrics": metrics}))
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
