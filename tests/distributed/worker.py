"""One rank of two that train, one run after the other; rank 0 writes logs and gathered weights for their tests."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from helpers.label_kinds import KINDS
from helpers.process_group import leave_group
from helpers.small_runs import (
    config,
    examples,
    make_trainer,
    models,
    narrow_student,
    partly_labelled,
    several_teachers,
)
from helpers.tiny_lm import language_models, lm_trainer_of, rows
from helpers.tiny_spans import collate, partly_answered, span_models
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from hf_kd_lambda.reports.label_quality import write_quality
from hf_kd_lambda.trainer.label_quality import can_judge, label_quality
from hf_kd_lambda.utils.run_files import QUALITY_FILE


def make(student: str, args: Any) -> Any:
    """A trainer of this kind of student."""
    if student == "language model":
        return lm_trainer_of(args, *language_models("gpt2"), eval_dataset=rows(12))
    if student == "questions":
        return make_trainer(args, *span_models(), partly_answered(), data_collator=collate)
    if student == "of several teachers":
        return make_trainer(args, several_teachers(), models()[1], examples())
    if student == "of numbers":
        return make_trainer(args, *models(num_labels=1), examples(num_labels=1))
    if student in KINDS:
        fields, data_of_kind, _ = KINDS[student]
        return make_trainer(args, *models(**fields), data_of_kind())
    teacher, usual = models()
    data = partly_labelled() if student == "of a transfer set" else examples()
    evaluated = examples(5) if args.eval_strategy == "steps" else None
    return make_trainer(
        args, teacher, narrow_student() if student == "narrow" else usual, data, eval_dataset=evaluated
    )


def run(folder: Path, settings: dict[str, Any], student: str = "usual", resumed_at: int | None = None) -> None:
    args = config(folder / "run", **settings)
    assert args.world_size == dist.get_world_size() == 2
    if args.fsdp:
        # Accelerate shards on accelerators only, and else trains with DDP without a word. FSDP2 itself runs on gloo.
        known = AcceleratorState._shared_state
        PartialState().distributed_type = DistributedType.FSDP if known else DistributedType.MULTI_GPU
    trainer = make(student, args)
    trainer.train()
    if resumed_at is not None:
        trainer = make(student, args)
        trainer.train(resume_from_checkpoint=str(folder / "run" / f"checkpoint-{resumed_at}"))
    assert trainer.is_fsdp_enabled == bool(args.fsdp)
    for module in trainer.model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # what an evaluation has gathered
    weights = {}
    for name, parameter in trainer.model.named_parameters():
        assert isinstance(parameter, DTensor) == bool(args.fsdp)
        full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        weights[name.removeprefix("module.")] = full.detach().contiguous().clone()
    judged = label_quality(trainer, ["a", "b", "c"]) if can_judge(trainer) else None
    if dist.get_rank() == 0:
        save_file(weights, folder / "weights.safetensors")
        if judged is not None:
            write_quality(folder / QUALITY_FILE, judged)
        (folder / "log.json").write_text(json.dumps(trainer.state.log_history))


def main() -> None:
    folder = Path(sys.argv[1])
    for name, arguments in json.loads(sys.argv[2]).items():
        run(folder / name, **arguments)
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
