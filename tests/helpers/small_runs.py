"""Small distillation runs that are the same whoever runs them: one process, two, or the plain reference loop."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from helpers import reference
from helpers.tiny import VOCABULARY, tiny_bert
from torch import nn
from torch.utils.data import DataLoader
from transformers import default_data_collator

from hf_kd_lambda.models.ensemble import Ensemble
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.trainer import DistillationTrainer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STEPS, BATCH, LEARNING_RATE = 6, 8, 0.01
UNLABELLED_ROWS = (0, 1, 5, 8, 11, 12, 13, 22, 30, 31, 40)


def models(num_labels: int = 3, **config) -> tuple[nn.Module, nn.Module]:
    """A confident teacher, and a student of two of its layers with a head of its own."""
    torch.manual_seed(0)
    teacher = tiny_bert(num_labels, layers=4, **{**NO_DROPOUT, **config})
    teacher.classifier.weight.data *= 20
    student = student_from_layers(teacher, [0, 3])
    nn.init.normal_(student.classifier.weight, std=0.5)
    return teacher, student


def several_teachers() -> Ensemble:
    """The teacher of `models` and another one, which has three times its weight."""
    first, _ = models()
    torch.manual_seed(5)
    second = tiny_bert(3, layers=2, **NO_DROPOUT)
    second.classifier.weight.data *= 20
    return Ensemble([first, second], [1, 3])


def narrow_student(hidden_size: int = 24, **config) -> nn.Module:
    """A student that has two layers as `models`' has, of another width."""
    torch.manual_seed(3)
    return tiny_bert(3, layers=2, hidden_size=hidden_size, **NO_DROPOUT, **config)


def examples(count: int = STEPS * BATCH, num_labels: int = 3) -> Dataset:
    """Random sentences with random labels, all of one length."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, len(VOCABULARY), (count, 10), generator=generator)
    labels = torch.randint(0, num_labels, (count,), generator=generator) if num_labels > 1 else ids[:, 0] / 20
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(), "labels": labels.tolist()}
    )


def partly_labelled(missing=-100, num_labels: int = 3) -> Dataset:
    """The examples, some of them without a label: some in each batch, and all of a few quarters of a batch."""
    data = examples(num_labels=num_labels)
    labels = [missing if row in UNLABELLED_ROWS else label for row, label in enumerate(data["labels"])]
    return data.remove_columns("labels").add_column("labels", labels)


def config(folder: Path, **settings) -> DistillationConfig:
    """Plain SGD over the examples in their order with the rule of `reference.py`, all logged, on the CPU in fp32."""
    defaults = {
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "precision": "fp32",
        "lambda_rule": "adaptive",
        "lambda_interval": 1,
        "disable_tqdm": True,
        "temperature": reference.TEMPERATURE,
    }
    return DistillationConfig(output_dir=str(folder), **{**defaults, **settings})


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def make_trainer(args: DistillationConfig, teacher: nn.Module, student: nn.Module, data: Dataset, **kwargs):
    kwargs = {"data_collator": default_data_collator, **kwargs}
    return DistillationTrainer(student, args, teacher=teacher, train_dataset=data, **kwargs)


def train(args: DistillationConfig, teacher: nn.Module, student: nn.Module, data: Dataset, **kwargs):
    trainer = make_trainer(args, teacher, student, data, **kwargs)
    trainer.train()
    return trainer


def logged(log_history: list[dict[str, float]], name: str) -> list[float]:
    return [entry[name] for entry in log_history if name in entry]


def batches(data: Dataset, size: int = BATCH) -> list[dict[str, torch.Tensor]]:
    return list(DataLoader(data, size, collate_fn=default_data_collator))


def reference_run(student: nn.Module, teacher: nn.Module, data: Dataset, optimizer=None, **settings):
    """The plain loop over the same examples, by default with SGD."""
    optimizer = optimizer or torch.optim.SGD(student.parameters(), lr=LEARNING_RATE)
    return reference.run(student, teacher, batches(data), optimizer, **settings)


def assert_same_run(
    log_history: list[dict[str, float]],
    weights: torch.Tensor,
    twin: nn.Module,
    steps: list[reference.Step],
    different_lambdas: int = 4,
    rel: float = 1e-6,
) -> None:
    """λ, both losses and the Gram matrix of every step, and the weights at the end."""
    assert len(steps) == STEPS
    assert logged(log_history, "lambda") == pytest.approx([step.lambda_ for step in steps], rel=rel)
    distinct = {round(step.lambda_, 5) for step in steps}
    assert len(distinct) >= different_lambdas, "λ must move for the comparison to mean anything"
    for name in ("task_loss", "kd_loss"):
        assert logged(log_history, name) == pytest.approx([getattr(step, name) for step in steps], rel=rel, abs=rel)
    # A single batch's gradients follow rounding more than λ and the weights do, of which 1e-6 is asked.
    for name, entry in (("grad_norm_task", 0), ("grad_norm_kd", 1)):
        assert logged(log_history, name) == pytest.approx([step.gram[entry] ** 0.5 for step in steps], rel=10 * rel)
    cosines = [step.gram[2] / (step.gram[0] * step.gram[1]) ** 0.5 for step in steps]
    assert logged(log_history, "grad_cosine") == pytest.approx(cosines, rel=10 * rel, abs=10 * rel)
    difference = (weights - flat(twin)).norm() / flat(twin).norm()
    assert difference < rel
