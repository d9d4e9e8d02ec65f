"""The space that a run takes on the disk: estimated before training, and the error when none is left."""

import errno
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import Trainer
from transformers.trainer_utils import SaveStrategy, unwrap_peft_model
from transformers.utils import logging

from hf_kd_lambda.trainer.trainer import DistillationTrainer

logger = logging.get_logger(__name__)

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# What safetensors and torch.save raise is neither an OSError nor has its number.
_DISK_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed", "inline_container")


def check_space(folder: Path, trainer: DistillationTrainer) -> int:
    """Refuse a disk without room for one checkpoint, and warn of one without room for all.

    Args:
        folder: the output_dir; what an earlier start of the run has written there counts as free.
        trainer: with its optimizer.

    Returns:
        Bytes that the run takes: the finished student, and the checkpoints that are kept.

    Raises:
        ValueError: names the folder, the space needed and the space that is free.
    """
    student = _bytes(trainer.model.parameters())  # with adapters too, which are merged into it
    checkpoint = weights_size(trainer.model) + optimizer_size(trainer.optimizer) + trainer.predictions_size
    kept = checkpoints_kept(trainer)
    needed = student + kept * checkpoint
    free = shutil.disk_usage(folder).free + _size_of_run(folder)
    if free < student + min(kept, 1) * checkpoint:
        raise ValueError(
            f"output_dir={str(folder)!r} has {_mb(free)} free, and the student takes about {_mb(student)}, a "
            f"checkpoint about {_mb(checkpoint)}: free some space, or choose another output_dir."
        )
    if free < needed:
        logger.warning(
            f"output_dir={str(folder)!r} has {_mb(free)} free, and {kept} checkpoints of about "
            f"{_mb(checkpoint)} and the student take {_mb(needed)}: set save_total_limit, or free some space."
        )
    return needed


def weights_size(model: nn.Module) -> int:
    """Bytes of the weights in a checkpoint, of a model with adapters these alone."""
    adapters = unwrap_peft_model(model) is not model
    return _bytes(parameter for parameter in model.parameters() if parameter.requires_grad or not adapters)


def optimizer_size(optimizer: Optimizer) -> int:
    """Bytes of an optimizer's state: two moments in Adam and its like, one with momentum, else none."""
    moments = 2 if "betas" in optimizer.defaults else 1 if optimizer.defaults.get("momentum") else 0
    return moments * trained_size(optimizer)


def trained_size(optimizer: Optimizer) -> int:
    """Bytes of the weights that an optimizer changes."""
    return _bytes(parameter for group in optimizer.param_groups for parameter in group["params"])


def checkpoints_kept(trainer: Trainer) -> int:
    """The most checkpoints that lie in the folder at once: one more than the limit, as the oldest is removed last."""
    args: Any = trainer.args
    epochs, *_, steps = _run_length(trainer)
    strategy, every = args.save_strategy, args.save_steps
    if strategy == SaveStrategy.BEST:  # at most at every evaluation
        strategy, every = args.eval_strategy, args.eval_steps
    saved = {"no": 0, "epoch": epochs}.get(strategy.value)
    if saved is None:
        saved = math.ceil(steps / (every * steps if every < 1 else every))
    return saved if args.save_total_limit is None else min(saved, args.save_total_limit + 1)


def optimizer_steps(trainer: Trainer) -> int:
    """How many optimizer steps a run takes."""
    return int(_run_length(trainer)[-1])


def _run_length(trainer: Trainer) -> Sequence[Any]:
    """Epochs first and optimizer steps last, as `max_steps` or `num_train_epochs` has them."""
    return trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a write that found no space."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if any(text in str(error) for text in _DISK_FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full_message(folders: Sequence[Path], needed: int | None, command: str) -> str:
    """What to do about a full disk: names the folder, the space needed, and the command that resumes.

    Args:
        folders: written folders, or what would have been; the one on the fullest disk is named.
        needed: bytes that the run takes, if they are known.
        command: resumes the run.
    """
    free = {folder: shutil.disk_usage(_nearest(folder)).free for folder in folders}
    folder = min(free, key=free.__getitem__)
    takes = "" if needed is None else f", and the run takes about {_mb(needed)} in all"
    return (
        f"no space left to write to {folder}: {_mb(free[folder])} are free{takes}. Free some space "
        f"or lower save_total_limit; this resumes the run: {command}"
    )


def _nearest(folder: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())


def _bytes(parameters: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def _size_of_run(folder: Path) -> int:
    """Bytes of a student and its checkpoints, without what else lies in sub-folders."""
    return sum(path.stat().st_size for path in [*folder.glob("*"), *folder.glob("checkpoint-*/*")] if path.is_file())


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
