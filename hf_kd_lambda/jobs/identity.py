"""Which settings and examples decide the result of a run, and so tell whether a folder belongs to it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import transformers
from datasets import Dataset

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.columns import LABELS
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.utils.fingerprint import examples_digest

# The fields of TrainingArguments that decide the trained weights.
OPTIMISATION = [
    *("seed", "data_seed", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "max_grad_norm", "label_smoothing_factor"),
    *("neftune_noise_alpha", "optim_args", "dataloader_drop_last", "train_sampling_strategy"),
    *("load_best_model_at_end", "metric_for_best_model"),
]
# These decide them too where load_best_model_at_end is set.
EVALUATION = ["greater_is_better", "eval_strategy", "eval_steps", "save_strategy", "save_steps"]
# Settings of DistillationConfig that change where outputs lie, not what they are.
_CACHING = {"cache_teacher", "teacher_cache_dir"}

# Settings of a job that change what is reported of a run.
_REPORTING = {"label_quality"}

# Settings that decide the examples alone, whose digest is compared; a run of version 0.1.0 does not name them.
_IN_EXAMPLES = {
    "delimiter",
    "validation_share",
    "doc_stride",
    "unlabelled_file",
    "unlabelled_dataset",
    "label_columns",
    "label_separator",
}


def settings_of(models: ModelArguments, data: DataArguments, config: DistillationConfig) -> dict[str, Any]:
    """All settings that decide the student."""
    own = {field.name for field in dataclasses.fields(DistillationConfig)}
    own -= {field.name for field in dataclasses.fields(transformers.TrainingArguments)} | _CACHING
    evaluation = EVALUATION if config.load_best_model_at_end else []
    training = {name: getattr(config, name) for name in sorted(own) + OPTIMISATION + evaluation}
    training["precision"] = config.autocast
    given = {**dataclasses.asdict(models), **dataclasses.asdict(data)}
    return {name: value for name, value in given.items() if name not in _REPORTING} | training


def student_identity(settings: Mapping[str, Any], num_processes: int, examples: Dataset) -> dict[str, Any]:
    """What decides the student: the settings, the number of processes and the encoded training examples."""
    decisive = {name: value for name, value in settings.items() if name not in _IN_EXAMPLES}
    return {**decisive, "num_processes": num_processes, "examples": digest(examples)}


def teacher_identity(settings: Mapping[str, Any], label_names: list[str] | None, examples: Dataset) -> dict[str, Any]:
    """What decides the fine-tuned teacher, which has a learning rate and a number of epochs of its own."""
    of_student = ("learning_rate", "num_train_epochs", "max_steps")
    own = ["teacher", "teacher_architecture", "teacher_epochs", "teacher_learning_rate", "augment"]
    own += ["class_weights", "early_stopping_patience"]
    kept = {name: settings[name] for name in [*own, *OPTIMISATION] if name not in of_student}
    return {**kept, "label_names": label_names, "examples": digest(examples)}


def digest(examples: Dataset) -> str:
    """Fingerprint of encoded examples, the same on every machine."""
    if "input_ids" not in examples.column_names:  # images
        return examples_digest(examples, examples.column_names)[:16]
    sha = hashlib.sha256()
    for column in [name for name in ("input_ids", *LABELS) if name in examples.column_names]:
        sha.update(repr(examples[column][:]).encode())
    return sha.hexdigest()[:16]
