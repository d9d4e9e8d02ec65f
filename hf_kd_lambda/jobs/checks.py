"""What a job refuses, or warns of, before it trains."""

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import INTEGRATION_TO_CALLBACK
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.selection import labelled
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.config_defaults import reads_metric
from hf_kd_lambda.utils.names import suggestion

logger = logging.get_logger(__name__)

TRIED = 100  # examples whose tokens are looked at
_CHECKPOINT = re.compile(r"checkpoint-\d+")
# Arguments of torch.utils.checkpoint that a settings file can hold, and Transformers' own.
_OF_CHECKPOINTING = {"use_reentrant", "preserve_rng_state", "determinism_check", "early_stop", "debug"}
_OF_CHECKPOINTING |= {"every_n_layers", "offload"}
# Settings of TrainingArguments that a job does not read: what it does instead.
_UNUSED = {
    "do_train": "a job always trains",
    "do_predict": "a job evaluates on the reported split at its end",
}
_OF_MEASUREMENTS = (
    *("lambda_min", "lambda_max", "lambda_max_change", "lambda_interval"),
    *("gram_decay", "gram_metric", "gram_estimator"),
)


def check_settings(models: ModelArguments, data: DataArguments, config: DistillationConfig) -> None:
    """Refuse settings that no data and no model could make right.

    Raises:
        ValueError: names the setting, its value and the fix.
    """
    if not config.learning_rate > 0:
        raise ValueError(f"learning_rate={config.learning_rate} trains nothing: it must be positive.")
    if config.save_only_model:
        raise ValueError("save_only_model=True keeps no optimizer, so that no run could resume: leave it out.")
    if config.ignore_data_skip:
        raise ValueError(
            "ignore_data_skip=True would repeat examples in a run that resumes, and end with other weights: leave it "
            "out."
        )
    if config.resume_from_checkpoint is not None:
        raise ValueError(
            f"resume_from_checkpoint={config.resume_from_checkpoint!r}: a run resumes from the last checkpoint in "
            "its output_dir by itself: leave it out."
        )
    if config.load_best_model_at_end and config.eval_strategy == "no":
        raise ValueError("load_best_model_at_end=True needs evaluations: set eval_strategy to epoch or steps.")
    _check_trackers(config)
    _check_checkpointing(config)
    _warn_of_settings_without_effect(models, data, config)
    _warn_of_same_files(data)


def _warn_of_same_files(data: DataArguments) -> None:
    """Warn of a file that is trained and evaluated on."""
    trained = [name for name in ("train_file", "unlabelled_file") if getattr(data, name) is not None]
    for name, evaluated in product(trained, ("validation_file", "test_file")):
        path = getattr(data, evaluated)
        if path is not None and Path(path).resolve() == Path(getattr(data, name)).resolve():
            logger.warning(
                f"{evaluated}={path!r} is {name}, too, so that its scores only show what was learned by heart: give "
                "other examples."
            )


def _check_trackers(config: DistillationConfig) -> None:
    """Refuse trackers that are unknown or not installed, as the Trainer would after the data are read."""
    for name in config.report_to or ():
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to={name!r} is no tracker: {suggestion(name, INTEGRATION_TO_CALLBACK)}")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError, AssertionError) as error:
            raise ValueError(
                f"report_to={name!r} is not installed ({error}): pip install {name}, or set report_to to none."
            ) from None


def _check_checkpointing(config: DistillationConfig) -> None:
    """Refuse what the Trainer would when training begins, after the teacher's outputs are cached."""
    given = config.gradient_checkpointing_kwargs or {}
    if unknown := sorted(given.keys() - _OF_CHECKPOINTING):
        raise ValueError(
            f"gradient_checkpointing_kwargs={given}: checkpointing takes no {', '.join(unknown)}, only "
            f"{', '.join(sorted(_OF_CHECKPOINTING))}."
        )


def check_folders(folder: Path, teacher_folder: Path, baseline_folder: Path) -> None:
    """Refuse a `teacher_dir` whose model could be taken for a student's, or the reverse.

    Raises:
        ValueError: names the setting and the fix.
    """
    teacher = teacher_folder.resolve()
    students = {folder.resolve(): "output_dir", baseline_folder.resolve(): "the folder of the student without KD"}
    for student, words in students.items():
        if teacher == student:
            raise ValueError(f"teacher_dir={str(teacher_folder)!r} is {words}, too: choose another.")
        for inner, outer in ((teacher, student), (student, teacher)):
            if inner.parent == outer and _CHECKPOINT.fullmatch(inner.name):
                raise ValueError(
                    f"teacher_dir={str(teacher_folder)!r} and {words} {str(student)!r}: {inner.name} could be taken "
                    "for a checkpoint of the other: choose another teacher_dir."
                )


def check_tokens(who: str, processor: Any, model: PreTrainedModel, examples: Dataset, max_length: int) -> None:
    """Refuse a tokenizer without a vocabulary or with more tokens than its model, and texts that are cut to nothing.

    Args:
        who: teacher or student.
        processor: its tokenizer; an image processor passes.
        model: the model.
        examples: encoded by it.
        max_length: tokens to which texts were cut.

    Raises:
        ValueError: names the setting and the fix.
    """
    if not isinstance(processor, PreTrainedTokenizerBase):
        return
    fix = f"give the {who} the folder of a model with its own tokenizer files (tokenizer.json, tokenizer_config.json)"
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(processor) > embeddings:
        raise ValueError(
            f"{who}: its tokenizer has {len(processor)} tokens, its model embeddings of {embeddings}: {fix}."
        )
    found = {token for tokens in examples[:TRIED]["input_ids"] for token in tokens}
    if not found <= set(processor.all_special_ids):
        return
    if processor.unk_token_id in found:
        raise ValueError(
            f"{who}: its tokenizer maps every word of the first {TRIED} examples to the unknown token: {fix}."
        )
    raise ValueError(
        f"max_length={max_length} leaves no word of the first {TRIED} examples to the {who}, but special tokens "
        "alone: raise it, or look for empty texts."
    )


def check_labels(models: ModelArguments, config: DistillationConfig, examples: Dataset) -> None:
    """Refuse examples without any label where labels alone are learned.

    Raises:
        ValueError: names what learns from the labels.
    """
    if len(labelled(examples)):
        return
    learners = {
        "teacher_finetune=True": models.teacher_finetune,
        "student_without_kd=True": models.student_without_kd,
        f"lambda_rule='fixed', kd_weight={config.kd_weight}": config.lambda_rule == "fixed" and config.kd_weight == 0,
    }
    for setting, learns in learners.items():
        if learns:
            raise ValueError(
                f"{setting} learns from labels alone, and no training example has a label: give labels, or leave it "
                "out."
            )


def check_label_smoothing(models: ModelArguments, config: DistillationConfig, examples: Dataset) -> None:
    """Refuse label smoothing that has no effect on a model that learns without the distillation trainer.

    Args:
        models, config: as given.
        examples: encoded.

    Raises:
        ValueError: names the setting and the fix.
    """
    if not config.label_smoothing_factor or "labels" in examples.features:
        return  # answers have none
    for setting in ("teacher_finetune", "student_without_kd"):
        if getattr(models, setting):
            raise ValueError(
                f"label_smoothing_factor={config.label_smoothing_factor} does not smooth the loss of {setting}=True, "
                "which is Transformers' own for answers: leave one of them out."
            )


def _warn_of_settings_without_effect(models: ModelArguments, data: DataArguments, config: DistillationConfig) -> None:
    defaults: Mapping[str, Any] = {
        field.name: field.default
        for kind in (ModelArguments, DataArguments, DistillationConfig)
        for field in kind.__dataclass_fields__.values()
    }
    judges = config.lambda_rule == "trust" and config.cache_teacher
    targets = "galore" in config.optim.value or "apollo" in config.optim.value
    keeps_best = config.save_total_limit is not None and config.eval_strategy != "no"
    fixed = None if config.rule.measures else f"lambda_rule is {config.lambda_rule}"
    one_label = None if data.has_label_lists else f"problem_type is {data.problem_type}, with one label for each text"
    without_effect = {
        **_UNUSED,
        "teacher_dir": None if models.teacher_finetune else "teacher_finetune is false",
        "teacher_epochs": None if models.teacher_finetune else "teacher_finetune is false",
        "teacher_learning_rate": None if models.teacher_finetune else "teacher_finetune is false",
        "eval_steps": None if config.eval_strategy == "steps" else f"eval_strategy is {config.eval_strategy.value}",
        "save_steps": None if config.save_strategy == "steps" else f"save_strategy is {config.save_strategy.value}",
        "metric_for_best_model": None if reads_metric(config) or keeps_best else "load_best_model_at_end is false",
        "label_quality": None if judges else "labels are judged with lambda_rule=trust and cached logits alone",
        "validation_share": None if data.validation_file is None else "validation_file is set",
        "label_separator": "label_columns is set" if data.label_columns is not None else one_label,
        "dataset_config": None if data.dataset is not None else "dataset is not set",
        "hub_model_id": None if config.push_to_hub else "push_to_hub is false",
        "optim_target_modules": None if targets else f"optim={config.optim.value} has none",
        **dict.fromkeys(_OF_MEASUREMENTS, fixed),
        "lambda_kappa": None if hasattr(config.rule, "kappa") else f"lambda_rule is {config.lambda_rule}",
        "dataloader_prefetch_factor": None if config.dataloader_num_workers else "dataloader_num_workers is 0",
    }
    for name, reason in without_effect.items():
        value = getattr(models, name, getattr(data, name, getattr(config, name, None)))
        if reason is not None and value != defaults.get(name, value):
            logger.warning(f"{name}={value!r} has no effect: {reason}.")
