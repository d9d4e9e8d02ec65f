"""Settings and examples that decide the result of a run, by which its folder is recognised."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from transformers.trainer_pt_utils import AcceleratorConfig

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
    *("auto_find_batch_size", "dataloader_in_order"),
]
# These decide them too where load_best_model_at_end is set.
EVALUATION = ["greater_is_better", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "eval_delay"]
NOT_COMPARED = {
    *("label_quality", "max_eval_samples", "student_without_kd", "test_file"),  # decide what is reported
    "teacher_dir",  # decides where the teacher lies, which has a record of its own
    # Decide the examples alone, whose digests are compared.
    *("delimiter", "doc_stride", "label_columns", "label_separator", "validation_file", "validation_share"),
    *("unlabelled_dataset", "unlabelled_file"),
    "evaluation of teacher",  # where earlier records have the settings of EVALUATION
}
"""Parts of a record in which a run may differ from the one in its folder."""

_DEFAULTS = {
    field.name: field.default for kind in (ModelArguments, DataArguments, DistillationConfig) for field in fields(kind)
}
_AT_ONCE = 1000  # examples
_MODEL_FILES = ("config.json", "adapter_config.json", "*.safetensors", "pytorch_model*.bin")


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """The parts in which two records of runs differ.

    A setting that a record does not name did not exist when it was written: its default is meant. All else, such as
    digests, is compared only with a record that has it.

    Args:
        earlier: as read from JSON.
        now: JSON values.
    """
    now = json.loads(json.dumps(now))
    names = earlier.keys() | (now.keys() & _DEFAULTS.keys())
    return {name for name in names if _value(earlier, name) != _value(now, name)}


def _value(record: Mapping[str, Any], name: str) -> Any:
    return record.get(name, _DEFAULTS.get(name))


def settings_of(models: ModelArguments, data: DataArguments, config: DistillationConfig) -> dict[str, Any]:
    """All settings that decide the student or what is reported."""
    own = {field.name for field in fields(DistillationConfig)}
    own -= {field.name for field in fields(transformers.TrainingArguments)} | {"cache_teacher", "teacher_cache_dir"}
    evaluation = EVALUATION if config.load_best_model_at_end else []
    training = {name: getattr(config, name) for name in sorted(own) + OPTIMISATION + evaluation}
    training["precision"] = config.autocast
    if config.lambda_rule == "trust" and not config.cache_teacher:
        training["cache_teacher"] = False  # then no predictions of earlier epochs are remembered
    if config.accelerator_config != AcceleratorConfig():  # it decides which batches a rank gets
        training["accelerator_config"] = config.accelerator_config.to_dict()
    return {**asdict(models), **asdict(data), **training}


def teacher_settings_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that decide the fine-tuned teacher, which has a learning rate, epochs and a metric of its own."""
    best = settings["load_best_model_at_end"]
    own = ["teacher", "teacher_architecture", "teacher_epochs", "teacher_learning_rate", "augment"]
    own += ["class_weights", "early_stopping_patience", "precision"]
    own += settings.keys() & {"accelerator_config"}
    of_student = ("learning_rate", "num_train_epochs", "max_steps")
    own += [name for name in OPTIMISATION + (EVALUATION if best else []) if name not in of_student]
    metric = {"metric_for_best_model": MAIN_METRIC if best else None, "greater_is_better": True if best else None}
    return {name: settings[name] for name in own} | metric


def identity(
    settings: Mapping[str, Any],
    num_processes: int,
    label_names: list[str] | None,
    train: Dataset,
    validation: Dataset,
) -> dict[str, Any]:
    """What decides a model: settings, number of processes, encoded examples, and what folders of models hold."""
    return {
        **settings,
        "num_processes": num_processes,
        "label_names": label_names,
        "examples": digest(train),
        "validation examples": digest(validation) if settings["load_best_model_at_end"] else None,
        **{f"content of {who}": content(settings[who]) for who in ("teacher", "student") if who in settings},
    }


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
