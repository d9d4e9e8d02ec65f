"""This package with its defaults, except the rule `adaptive`; the teacher's logits are computed once."""

from pathlib import Path

from benchmarks.contenders.task import Parts, Task, compute_accuracy, train_and_save, training_arguments
from hf_kd_lambda import DistillationConfig, DistillationTrainer


def make_trainer(task: Task, parts: Parts, folder: Path) -> DistillationTrainer:
    """The trainer, with an empty teacher cache, so that computing the logits is part of training."""
    args = DistillationConfig(
        lambda_rule="adaptive",
        temperature=task.temperature,
        precision=task.precision,
        teacher_cache_dir=str(folder / "teacher_cache"),
        **training_arguments(task, folder),
    )
    return DistillationTrainer(
        parts.student,
        args,
        teacher=parts.teacher,
        train_dataset=parts.train,
        eval_dataset=parts.validation,
        data_collator=parts.collator,
        compute_metrics=compute_accuracy,
    )


def train(task: Task, parts: Parts, folder: Path) -> int:
    """See `train_and_save`."""
    return train_and_save(make_trainer(task, parts, folder), parts.student, folder)
