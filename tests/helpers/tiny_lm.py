"""Language models small enough for tests, texts of unlike lengths, and a plain computation of their losses."""

from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers import reference
from helpers.small_runs import BATCH, STEPS, config
from helpers.tiny import VOCABULARY, tiny_tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.trainer import DistillationTrainer

SIZES = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
OF_MODEL_TYPE = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), GROUPED),
}


def tiny_lm(model_type: str = "llama", layers: int = 4, **fields) -> PreTrainedModel:
    """A language model of random weights: GPT-2, whose embeddings are tied, or one with fewer keys than queries."""
    fields = {**SIZES, **SPECIAL, **OF_MODEL_TYPE[model_type], "num_hidden_layers": layers, **fields}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))


def language_models(model_type: str = "llama", **fields) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A confident teacher, and a student of half its depth."""
    torch.manual_seed(0)
    teacher = tiny_lm(model_type, initializer_range=0.3, **fields)
    return teacher, tiny_lm(model_type, layers=2, initializer_range=0.15, **fields)


def text_tokenizer() -> PreTrainedTokenizerBase:
    """Tokenizer of the tiny vocabulary, for continuous text."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    return tokenizer


def rows(count: int = STEPS * BATCH) -> Dataset:
    """Rows of 2 to 17 random tokens; the first is a label, too, and every fifth row has a prompt without labels."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 18, (count,), generator=generator).tolist()
    ids = [torch.randint(5, len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]
    labels = [[-100] * (len(row) // 2) + row[len(row) // 2 :] if i % 5 == 0 else row for i, row in enumerate(ids)]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels})


def lm_trainer(folder: Path, teacher, student, data: Dataset | None = None, kwargs=None, **settings):
    """A trainer on rows, in their order, as `small_runs.config` has it."""
    args = config(folder, **settings)
    return lm_trainer_of(args, teacher, student, data, **(kwargs or {}))


def lm_trainer_of(args: DistillationConfig, teacher, student, data: Dataset | None = None, **kwargs):
    collator = DataCollatorForTokenClassification(text_tokenizer())
    return DistillationTrainer(
        student, args, teacher=teacher, train_dataset=data or rows(), data_collator=collator, **kwargs
    )


def padded_batches(data: Dataset, size: int = BATCH) -> list[dict[str, torch.Tensor]]:
    collate = DataCollatorForTokenClassification(text_tokenizer())
    return [dict(collate(list(data.select(range(i, min(i + size, len(data))))))) for i in range(0, len(data), size)]


def next_token_losses(student: nn.Module, teacher: nn.Module, batch, task_loss=None):
    """Both mean losses of a batch, over the positions that are followed by a label; as `reference.losses`."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["labels"][:, 1:]
    labelled = labels != -100
    with torch.no_grad():
        soft = teacher(**inputs).logits[:, :-1][labelled]
    logits = student(**inputs).logits[:, :-1][labelled]
    return F.cross_entropy(logits, labels[labelled]), reference.mean_kd_loss(logits, soft)
