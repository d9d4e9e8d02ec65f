"""One rank of two that compute a teacher's outputs together; it writes what it read for the test that launched it."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import Dataset
from helpers.process_group import leave_group
from helpers.small_runs import config, models
from helpers.tiny import VOCABULARY, tiny_tokenizer
from torch.nn.modules.module import register_module_forward_hook
from transformers import DataCollatorWithPadding

from hf_kd_lambda.teacher.collator import unpacked
from hf_kd_lambda.trainer.trainer import DistillationTrainer


def uneven_examples() -> Dataset:
    """Random sentences of 1 to 15 tokens."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 16, (29,), generator=generator).tolist()
    ids = [torch.randint(5, len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]
    return Dataset.from_dict(
        {"input_ids": ids, "attention_mask": [[1] * n for n in lengths], "labels": [0] * len(ids)}
    )


def cache(folder: Path, cache_dir: Path, other_teacher: bool = False) -> dict[str, object]:
    """What a trainer has after caching, and how often it asked the teacher.

    Args:
        folder: of the run.
        cache_dir: of the cache.
        other_teacher: whether the second rank has other weights of the teacher.
    """
    kept = {"cache_hidden_states": True, "kd_losses": {"soft_targets": 1.0, "hidden_mse": 1.0}}
    args = config(folder / "run", teacher_cache_dir=str(cache_dir), per_device_eval_batch_size=4, **kept)
    teacher, student = models()
    if other_teacher and dist.get_rank():
        torch.nn.init.zeros_(teacher.classifier.weight)
    collate = DataCollatorWithPadding(tiny_tokenizer())
    trainer = DistillationTrainer(
        student, args, teacher=teacher, train_dataset=uneven_examples(), data_collator=collate
    )
    calls: list[int] = []
    # Only now: one example was put through both models. A hook of the teacher would be a part of its fingerprint.
    hook = register_module_forward_hook(lambda module, *_: calls.append(1) if module is teacher else None)
    complete = trainer.cache_teacher()
    hook.remove()
    rows = trainer.train_dataset
    logits = rows["teacher_logits"][:] if complete else None
    hidden = [unpacked(row)["hidden_states.4"].tolist() for row in rows["teacher_outputs"]] if complete else None
    files = [file["filename"] for file in rows.cache_files]
    return {"complete": complete, "logits": logits, "hidden": hidden, "calls": len(calls), "files": files}


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "file").touch()
    results = [
        cache(folder, folder / "cache"),
        cache(folder, folder / "cache"),
        cache(folder, folder / "file" / "cache"),
        cache(folder, folder / "others", other_teacher=True),
    ]
    assert dist.get_world_size() == 2
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(results))
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
