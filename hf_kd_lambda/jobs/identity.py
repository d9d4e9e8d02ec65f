"""Settings and examples that decide the result of a run, by which its folder is recognised."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.columns import LABELS, TEACHER_PREFIX
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.utils.fingerprint import examples_digest, file_digest, fingerprint
from hf_kd_lambda.utils.log_keys import MAIN_METRIC

# The fields of TrainingArguments that decide the trained weights.
OPTIMISATION = [
    *("seed", "data_seed", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "max_grad_norm", "label_smoothing_factor"),
    *("neftune_noise_alpha", "optim_args", "dataloader_drop_last", "train_sampling_strategy"),
    *("load_best_model_at_end", "metric_for_best_model", "optim_target_modules", "average_tokens_across_devices"),
]
# These decide them too where load_best_model_at_end is set.
EVALUATION = ["greater_is_better", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "eval_delay"]
# Settings of DistillationConfig that change where outputs lie, not what they are.
_CACHING = {"cache_teacher", "teacher_cache_dir"}
_AT_ONCE = 1000  # examples

# Settings of a job that change what is reported of a run.
_REPORTING = {"label_quality"}

_MODEL_FILES = ("config.json", "adapter_config.json", "*.safetensors", "pytorch_model*.bin")

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
    if config.lambda_rule == "trust" and not config.cache_teacher:
        training["cache_teacher"] = False  # then no predictions of earlier epochs are remembered
    given = {**dataclasses.asdict(models), **dataclasses.asdict(data)}
    return {name: value for name, value in given.items() if name not in _REPORTING} | training


# Settings of which a run that does not set them has no record, like runs of versions without them.
_RECORDED_IF_SET = {"freeze_embeddings", "optim_target_modules", "eval_delay"}

RECORDED_LATER = {
    *("content of teacher", "content of student", "label_names", "validation examples", "evaluation of teacher"),
    *("precision", "num_processes", "average_tokens_across_devices"),
}
"""Parts of an identity that are compared only with a run that recorded them, since earlier ones did not."""


def student_identity(
    settings: Mapping[str, Any], num_processes: int, label_names: list[str] | None, tokens: Mapping[str, Dataset]
) -> dict[str, Any]:
    """What decides the student: settings, number of processes, encoded examples, and what folders of models hold."""
    return {
        **_recorded({name: value for name, value in settings.items() if name not in _IN_EXAMPLES}),
        "num_processes": num_processes,
        "label_names": label_names,
        "examples": digest(tokens["train"]),
        "validation examples": digest(tokens["validation"]) if settings["load_best_model_at_end"] else None,
        **{f"content of {who}": content(settings[who]) for who in ("teacher", "student")},
    }


def teacher_identity(
    settings: Mapping[str, Any],
    num_processes: int,
    label_names: list[str] | None,
    examples: Dataset,
    validation: Dataset,
) -> dict[str, Any]:
    """What decides the fine-tuned teacher, which has a learning rate, epochs and a metric of its own."""
    of_student = ("learning_rate", "num_train_epochs", "max_steps")
    own = ["teacher", "teacher_architecture", "teacher_epochs", "teacher_learning_rate", "augment"]
    own += ["class_weights", "early_stopping_patience", "precision"]
    kept = {name: settings[name] for name in [*own, *OPTIMISATION] if name not in of_student}
    return {
        **_recorded(kept),
        "metric_for_best_model": MAIN_METRIC if settings["load_best_model_at_end"] else None,
        "num_processes": num_processes,
        "label_names": label_names,
        "examples": digest(examples),
        "content of teacher": content(settings["teacher"]),
        "evaluation of teacher": _choice(settings, validation),
    }


def _choice(settings: Mapping[str, Any], validation: Dataset) -> dict[str, Any] | None:
    """What decides which of its checkpoints a teacher is; None if it is the last."""
    if not settings["load_best_model_at_end"]:
        return None
    compared = _recorded({name: settings[name] for name in EVALUATION})
    return {**compared, "greater_is_better": True, "validation examples": digest(validation)}


def _recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value or name not in _RECORDED_IF_SET}


def content(checkpoints: str | list[str] | None) -> list[str]:
    """Fingerprints of weights and configurations in folders of models; none of a model of the Hub."""
    named = [checkpoints] if isinstance(checkpoints, str) else checkpoints or []
    files = [path for name in named for pattern in _MODEL_FILES for path in sorted(Path(name).glob(pattern))]
    return [fingerprint([path.name, file_digest(path)]) for path in files]


def digest(examples: Dataset) -> str:
    """Fingerprint of encoded examples, the same on every machine."""
    if "input_ids" not in examples.column_names:  # images
        return examples_digest(examples, examples.column_names)[:16]
    sha = hashlib.sha256()
    columns = ("input_ids", f"{TEACHER_PREFIX}input_ids", *LABELS)
    for column in [name for name in columns if name in examples.column_names]:
        # As `repr` of the whole column, of which only a part at a time is in memory.
        for start in range(0, max(len(examples), 1), _AT_ONCE):
            rows = repr(examples[column][start : start + _AT_ONCE])[1:-1]
            sha.update(f"{', ' if start else '['}{rows}".encode())
        sha.update(b"]")
    return sha.hexdigest()[:16]
