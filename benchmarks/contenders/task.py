"""Settings, data, models and evaluation that all contenders share."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from hf_kd_lambda import DataArguments, student_from_layers
from hf_kd_lambda.data.texts import load_task_data, tokenize
from hf_kd_lambda.models.classifiers import load_classifier

UNDECAYED = ("bias", "LayerNorm.weight")


@dataclass(frozen=True)
class Task:
    """Settings of the distillation.

    Args:
        teacher: Folder of a fine-tuned classifier with its tokenizer.
        data: Hub id or folder of GLUE.
        examples: Number of training sentences, after a shuffle with `seed`.
        batch: Sentences per batch, in training and in evaluation.
        max_length: Longest sentence, in tokens.
        warmup: Share of the steps in which the learning rate rises; then it falls linearly.
        temperature: T of the KD loss, T²·KL.
        kd_weight: Fixed weight of the KD loss; the weight of the task loss is `1 - kd_weight`.
        student_layers: Layers of the teacher that make the student.
        precision: bf16 is autocast. Only for contenders built on the `Trainer`.
        grouped: Length-grouped batches instead of random ones. Only for the same contenders.
    """

    teacher: str
    data: str = "nyu-mll/glue"
    examples: int = 20_000
    epochs: int = 3
    seed: int = 42
    batch: int = 32
    max_length: int = 64
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    temperature: float = 2.0
    kd_weight: float = 0.5
    student_layers: tuple[int, ...] = (0, 2, 5)
    precision: Literal["fp32", "bf16"] = "fp32"
    grouped: bool = False


@dataclass(frozen=True)
class Parts:
    """Data and models of a task; the splits have truncated tokens without padding, and labels."""

    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    train: Dataset
    validation: Dataset

    @cached_property
    def collator(self) -> DataCollatorWithPadding:
        """Pads a batch to its longest sentence."""
        return DataCollatorWithPadding(self.tokenizer)

    @property
    def real_tokens(self) -> int:
        """Tokens of all training sentences, without padding."""
        return sum(len(tokens) for tokens in self.train["input_ids"][:])


def prepare(task: Task) -> Parts:
    """Load the data and the teacher, and make the student."""
    data = load_task_data(DataArguments(dataset=task.data, task="sst2", max_train_samples=task.examples), task.seed)
    teacher = load_classifier(task.teacher, data.label_names, require_head=True)
    tokenizer = AutoTokenizer.from_pretrained(task.teacher)
    tokens = tokenize(data, tokenizer, task.max_length)
    student = student_from_layers(teacher, task.student_layers)
    return Parts(teacher.eval(), student, tokenizer, tokens["train"], tokens["validation"])


def training_arguments(task: Task, folder: Path) -> dict[str, Any]:
    """Settings of every `Trainer`; all others are defaults. All contenders save only the final student."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": task.epochs,
        "per_device_train_batch_size": task.batch,
        "per_device_eval_batch_size": task.batch,
        "learning_rate": task.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": task.warmup,
        "weight_decay": task.weight_decay,
        "max_grad_norm": task.max_grad_norm,
        "train_sampling_strategy": "group_by_length" if task.grouped else "random",
        "seed": task.seed,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),
    }


def train_and_save(trainer: Trainer, student: PreTrainedModel, folder: Path) -> int:
    """Train, evaluate after each epoch and save the student in `folder`.

    Returns:
        Number of optimizer steps.
    """
    trainer.train()
    student.save_pretrained(folder)
    return trainer.state.global_step


def training_device() -> torch.device:
    """The device that `Trainer` would use."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def adamw(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Torch's AdamW with the weight decay of `Trainer`, for training loops that take an optimizer."""
    named = list(model.named_parameters())
    decayed = [parameter for name, parameter in named if not name.endswith(UNDECAYED)]
    undecayed = [parameter for name, parameter in named if name.endswith(UNDECAYED)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def schedule(task: Task, parts: Parts) -> dict[str, int]:
    """Arguments of `get_linear_schedule_with_warmup`, with the `Trainer`'s rounding."""
    steps = task.epochs * math.ceil(len(parts.train) / task.batch)
    return {"num_warmup_steps": math.ceil(task.warmup * steps), "num_training_steps": steps}


def compute_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of the `Trainer`."""
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


@torch.no_grad()
def accuracy(model: nn.Module, parts: Parts, batch: int) -> float:
    """Accuracy on the validation sentences. Leaves the model in evaluation mode."""
    model.eval()
    loader = DataLoader(parts.validation, batch_size=batch, collate_fn=parts.collator)
    hits = torch.cat([_hits(model, dict(inputs)) for inputs in loader])
    return hits.float().mean().item()


def _hits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    device = next(model.parameters()).device
    labels = inputs.pop("labels")
    logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).logits
    return logits.argmax(-1).cpu() == labels
