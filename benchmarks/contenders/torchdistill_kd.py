"""torchdistill's distillation box, set up as in its GLUE example with the configuration for SST-2.

Differences: no Accelerate; the box gets the labels, because without them its KDLoss omits the task loss and T².
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.utils.data import RandomSampler, SequentialSampler
from transformers import get_linear_schedule_with_warmup

from benchmarks.contenders.task import Parts, Task, accuracy, adamw, schedule, training_device

STUBBED = ["torchvision", *(f"torchvision.{name}" for name in ("datasets", "models"))]
STUBBED += [f"torchvision.models.{name}" for name in ("densenet", "resnet")]


class _Stub(ModuleType):
    """A module from which any class can be imported."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _torchvision_or_stub() -> Iterator[None]:
    missing = [] if find_spec("torchvision") else STUBBED
    sys.modules.update({name: _Stub(name) for name in missing})
    try:
        yield
    finally:  # other libraries, such as Transformers, must not find the stub
        for name in missing:
            del sys.modules[name]


with _torchvision_or_stub():
    from torchdistill.core.distillation import DistillationBox, get_distillation_box
    from torchdistill.datasets.registry import register_collate_func
    from torchdistill.optim.registry import register_optimizer, register_scheduler

register_optimizer(adamw)
register_scheduler(get_linear_schedule_with_warmup)


def make_box(task: Task, parts: Parts) -> DistillationBox:
    """The box, with its loaders, loss, optimizer and schedule."""
    register_collate_func(parts.collator, key="pad")
    datasets = {"train": parts.train, "validation": parts.validation}
    config = _config(task, parts)
    return get_distillation_box(parts.teacher, parts.student, datasets, config, training_device(), None, False, 1)


def batch_loss(box: DistillationBox, batch: dict[str, Tensor]) -> Tensor:
    """(1 − kd_weight)·CE + kd_weight·T²·KL of one batch."""
    return box.forward_process(batch, targets=batch["labels"])


def train(task: Task, parts: Parts, folder: Path) -> int:
    """Train, evaluate after each epoch and save the student in `folder`.

    Returns:
        Number of optimizer steps.
    """
    box = make_box(task, parts)
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for batch in box.train_data_loader:
            box.post_forward_process(loss=batch_loss(box, batch.to(box.device)))
        print(f"epoch {epoch + 1}: accuracy {accuracy(parts.student, parts, task.batch):.4f}")
        box.post_epoch_process()
    parts.student.save_pretrained(folder)
    return box.stage_grad_count


def _config(task: Task, parts: Parts) -> dict[str, Any]:
    model = {"forward_proc": "forward_batch_only_as_kwargs", "forward_hook": {"output": ["classifier"]}}
    logits = {
        f"{who}_module_{key}": value
        for who in ("student", "teacher")
        for key, value in (("path", "classifier"), ("io", "output"))
    }
    kd_loss = {"temperature": task.temperature, "alpha": 1 - task.kd_weight, "reduction": "batchmean", **logits}
    return {
        "num_epochs": task.epochs,
        "train_data_loader": _loader("train", RandomSampler, task.batch),
        "val_data_loader": _loader("validation", SequentialSampler, task.batch),
        "teacher": {**model, "requires_grad": False},
        "student": {**model, "requires_grad": True},
        "optimizer": {
            "key": "adamw",
            "kwargs": {"lr": task.learning_rate, "weight_decay": task.weight_decay},
            "filters_params": False,
            "max_grad_norm": task.max_grad_norm,
            "grad_accum_step": 1,
        },
        "scheduler": {
            "key": "get_linear_schedule_with_warmup",
            "kwargs": schedule(task, parts),
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd_loss}, "weight": 1.0}}},
        },
    }


def _loader(split: str, sampler: type, batch: int) -> dict[str, Any]:
    return {
        "dataset_id": split,
        "sampler": {"class_or_func": sampler},
        "kwargs": {"batch_size": batch, "num_workers": 0},
        "collate_fn": "pad",
        "requires_supp": False,
    }
