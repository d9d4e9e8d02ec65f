"""Fine-tune a model on the task loss alone, without distillation."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import DatasetDict
from transformers import EvalPrediction, PreTrainedModel, TrainingArguments

from hf_kd_lambda.jobs.manifest import write_manifest
from hf_kd_lambda.jobs.resuming import train_on
from hf_kd_lambda.jobs.run_folder import record_run, remove_checkpoints
from hf_kd_lambda.trainer.base_trainer import BaseTrainer
from hf_kd_lambda.trainer.sampling import sampling_strategy


def finetune(
    model: PreTrainedModel,
    args: TrainingArguments,
    tokens: DatasetDict,
    processor: Any,
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]],
    compute_metrics: Callable[[EvalPrediction], dict[str, float]],
    settings: Mapping[str, Any],
    preprocess_logits: Callable[..., Any] | None = None,
    compute_loss: Callable[..., Any] | None = None,
) -> None:
    """Fine-tune a model on the task loss and save it, with its processor, in `args.output_dir`.

    Args:
        model: initial model.
        args: arguments of the plain Trainer.
        tokens: splits train and validation.
        processor: is saved with the model.
        collator: from examples to a batch.
        compute_metrics: the task's metrics.
        settings: recorded next to the model; `claim_folder` compares them the next time.
        preprocess_logits: see `Task`.
        compute_loss: loss from outputs, labels and the number of items; None for the model's own loss.

    Raises:
        TrainingStoppedError: Ctrl-C or SIGTERM ended training.
    """
    folder = Path(str(args.output_dir))
    if args.should_save:
        record_run(folder, settings, finished=False)
    args = copy.copy(args)
    args.train_sampling_strategy = sampling_strategy(args, tokens["train"], processor)
    trainer = BaseTrainer(
        model,
        args,
        train_dataset=tokens["train"],
        eval_dataset=tokens["validation"],
        data_collator=collator,
        processing_class=processor,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=preprocess_logits,
        compute_loss_func=compute_loss,
    )
    train_on(trainer)
    trainer.save_model()
    trainer.save_state()
    if args.should_save:
        record_run(folder, settings, finished=True)
        write_manifest(folder)
        remove_checkpoints(folder)
    PartialState().wait_for_everyone()
