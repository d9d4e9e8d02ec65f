"""What a job refuses, or warns of, once its trainer is made: see `check_trainer`."""

import copy

from transformers import ProgressCallback, Trainer
from transformers.utils import logging

from hf_kd_lambda.jobs.disk_space import optimizer_size, optimizer_steps, trained_size
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.trainer import DistillationTrainer
from hf_kd_lambda.utils.hardware import memory

logger = logging.get_logger(__name__)

FEW_EVALUATED = 8  # examples of an evaluation that only shows the names of its metrics


def check_trainer(trainer: DistillationTrainer) -> None:
    """Build what training builds, on a trainer that is thrown away.

    Raises:
        ValueError: names the setting and what is wrong.
    """
    config = trainer.args
    batches = len(trainer.get_train_dataloader()) if hasattr(trainer.train_dataset, "__len__") else 1
    if not batches:
        raise ValueError(
            f"per_device_train_batch_size={config.per_device_train_batch_size}: the {len(trainer.train_dataset)} "
            "training examples fill no batch, and dataloader_drop_last=True drops the rest: lower it."
        )
    if config.dataloader_drop_last and config.eval_strategy != "no":
        _warn_of_dropped(config, len(trainer.eval_dataset))
    try:
        trainer.create_optimizer()
    except Exception as error:  # whatever a library raises
        settings = f"optim={str(config.optim.value)!r}, optim_args={config.optim_args!r}"
        raise ValueError(f"{settings}: the optimizer cannot be made ({error}): change them.") from error
    try:
        trainer.create_scheduler(num_training_steps=1000, optimizer=trainer.optimizer)
    except Exception as error:
        kind = getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type)
        settings = f"lr_scheduler_type={str(kind)!r}, lr_scheduler_kwargs={config.lr_scheduler_kwargs!r}"
        raise ValueError(f"{settings}: the scheduler cannot be made ({error}): change them.") from error
    _check_memory(trainer)
    _check_optim_args(config)
    _check_best_metric(trainer)
    _warn_of_short_run(config, optimizer_steps(trainer))


def _warn_of_short_run(config: DistillationConfig, steps: int) -> None:
    """Warn of a run that ends before its settings have an effect."""
    if config.lambda_interval is not None and config.lambda_interval >= steps > 1 and config.rule.measures:
        logger.warning(
            f"lambda_interval={config.lambda_interval}: the run has {steps} optimizer steps, so that λ is measured at "
            "the first one alone: lower it."
        )
    warmup = config.get_warmup_steps(steps)
    if warmup >= steps > 1:
        logger.warning(
            f"warmup_steps={config.warmup_steps:g}: the run has {steps} optimizer steps, so that it ends before the "
            f"learning rate reaches {config.learning_rate}: lower it."
        )


def _warn_of_dropped(config: DistillationConfig, examples: int) -> None:
    """Warn of evaluations in training that drop some validation examples."""
    if dropped := examples % (config.eval_batch_size * config.world_size):
        logger.warning(
            f"dataloader_drop_last=True: {dropped} of the {examples} validation examples are left out of the "
            "evaluations in training."
        )


def _check_memory(trainer: DistillationTrainer) -> None:
    """Refuse a student whose weights, gradients and optimizer do not fit into the memory, whatever the batch."""
    device = trainer.args.device
    if device.type not in ("cpu", "cuda") or trainer.accelerator.is_fsdp2:
        return
    weights = trained_size(trainer.optimizer)
    needed, there = 2 * weights + optimizer_size(trainer.optimizer), memory(device)
    if needed > there:
        raise ValueError(
            f"the student's weights, gradients and optimizer take {needed / 1e9:,.1f} GB, and {device} has "
            f"{there / 1e9:,.1f} GB of memory: take a smaller student, or lora."
        )


def _check_optim_args(config: DistillationConfig) -> None:
    """Refuse arguments that the optimizer would not get."""
    if not config.optim_args:
        return
    without = copy.copy(config)
    without.optim_args = None
    if Trainer.get_optimizer_cls_and_kwargs(config) == Trainer.get_optimizer_cls_and_kwargs(without):
        raise ValueError(
            f"optim_args={config.optim_args!r} does not reach optim={str(config.optim.value)!r}: leave it out, or set "
            "learning_rate, weight_decay, adam_beta1 and the like."
        )


def _check_best_metric(trainer: DistillationTrainer) -> None:
    """Look up `metric_for_best_model` in the metrics of a small evaluation."""
    config = trainer.args
    metric = config.metric_for_best_model
    if metric is None or trainer.accelerator.is_fsdp2:  # which would shard the model that is to be thrown away
        return
    count = max(FEW_EVALUATED, config.eval_batch_size if config.dataloader_drop_last else 0) * config.world_size
    few = trainer.eval_dataset.select(range(min(len(trainer.eval_dataset), count)))
    trainer.remove_callback(ProgressCallback)  # whose bar an error would follow on the same line
    metrics = trainer.evaluation_loop(trainer.get_eval_dataloader(few), "check").metrics or {}
    names = sorted(name.removeprefix("eval_") for name in metrics)
    if metric.removeprefix("eval_") not in names:
        raise ValueError(
            f"metric_for_best_model={metric!r} is not one of the metrics of an evaluation: {', '.join(names)}."
        )
