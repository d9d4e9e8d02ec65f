"""Question answering small enough for tests: windows of unlike lengths, and a plain computation of their losses."""

from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers import reference
from helpers.small_runs import BATCH, NO_DROPOUT, STEPS, UNLABELLED_ROWS, config
from helpers.tiny import SIZES, VOCABULARY
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForQuestionAnswering

from hf_kd_lambda.losses.functional.labels import UNLABELLED
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.trainer.trainer import DistillationTrainer


def span_bert(layers: int = 4, **fields) -> BertForQuestionAnswering:
    return BertForQuestionAnswering(BertConfig(**{**SIZES, "num_hidden_layers": layers, **fields}))


def span_models(**fields) -> tuple[nn.Module, nn.Module]:
    """A confident teacher, and a student of two of its layers with a head of its own."""
    torch.manual_seed(0)
    teacher = span_bert(**NO_DROPOUT, **fields)
    teacher.qa_outputs.weight.data *= 20
    student = student_from_layers(teacher, [0, 3])
    nn.init.normal_(student.qa_outputs.weight, std=0.5)
    return teacher, student


def windows(count: int = STEPS * BATCH) -> Dataset:
    """A first token, 2 of a question, and 3 to 12 of a context that the answer is in; at every fifth, the first."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for index in range(count):
        length = int(torch.randint(6, 16, (), generator=generator))
        start, end = sorted(torch.randint(3, length, (2,), generator=generator).tolist()) if index % 5 else (0, 0)
        rows.append(
            {
                "input_ids": torch.randint(5, len(VOCABULARY), (length,), generator=generator).tolist(),
                "attention_mask": [1] * length,
                "answer_mask": [1, 0, 0] + [1] * (length - 3),
                "start_positions": start,
                "end_positions": end,
            }
        )
    return Dataset.from_list(rows)


def partly_answered() -> Dataset:
    """The windows, some of which have no label, as `partly_labelled` has examples."""
    missing = {"start_positions": UNLABELLED, "end_positions": UNLABELLED}
    return windows().map(lambda row, index: missing if index in UNLABELLED_ROWS else row, with_indices=True)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Lists padded with zeros."""
    return {
        name: pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True)
        if isinstance(rows[0][name], list)
        else torch.tensor([row[name] for row in rows])
        for name in rows[0]
    }


def padded_batches(data: Dataset, size: int = BATCH) -> list[dict[str, torch.Tensor]]:
    return [collate(list(data.select(range(i, min(i + size, len(data)))))) for i in range(0, len(data), size)]


def span_trainer(folder: Path, teacher, student, data: Dataset | None = None, kwargs=None, **settings):
    """A trainer on windows, in their order, as `small_runs.config` has it."""
    return DistillationTrainer(
        student,
        config(folder, **settings),
        teacher=teacher,
        train_dataset=data or windows(),
        data_collator=collate,
        **(kwargs or {}),
    )


def span_losses(student: nn.Module, teacher: nn.Module, batch, task_loss=None):
    """Both losses of a batch, each the mean over its starts and ends; as `reference.losses`."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        soft = teacher(**inputs)
    found = student(**inputs)
    task, kd = [], []
    for name in ("start", "end"):
        of_student, of_teacher = (outputs[f"{name}_logits"] for outputs in (found, soft))
        for row, keep in enumerate(batch["answer_mask"].bool()):
            if (position := batch[f"{name}_positions"][row]) != UNLABELLED:
                label = keep[:position].sum()  # its place among the positions that are kept
                task.append(F.cross_entropy(of_student[row][keep], label))
            kd.append(reference.mean_kd_loss(of_student[row][keep][None], of_teacher[row][keep][None]))
    return torch.stack(task).mean(), torch.stack(kd).mean()
