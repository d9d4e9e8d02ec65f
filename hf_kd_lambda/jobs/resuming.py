"""Train any trainer from its last checkpoint, and take up a run that is finished."""

from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from hf_kd_lambda.jobs.errors import TrainingStoppedError
from hf_kd_lambda.jobs.manifest import WriteManifests
from hf_kd_lambda.jobs.run_folder import last_checkpoint
from hf_kd_lambda.models.adapters import merge_adapters
from hf_kd_lambda.trainer.base_trainer import BaseTrainer
from hf_kd_lambda.trainer.early_stopping import has_stopped
from hf_kd_lambda.trainer.label_quality import can_judge
from hf_kd_lambda.trainer.lambda_checkpoint import LambdaCheckpoint
from hf_kd_lambda.trainer.trainer import DistillationTrainer

logger = logging.get_logger(__name__)


class FindBest(TrainerCallback):
    """Finds the best checkpoint of a resumed run in a folder that was moved, where the Trainer would ignore it."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look it up by its step."""
        best = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
        if state.best_global_step and best.is_dir():
            state.best_model_checkpoint = str(best)


def train_on(trainer: BaseTrainer) -> None:
    """Train from the last complete checkpoint in the trainer's folder, or from the start where there is none.

    Adapters are merged into the model at the end.

    Raises:
        TrainingStoppedError: Ctrl-C or SIGTERM ended training.
        ValueError: there was nothing to train.
    """
    folder = Path(str(trainer.args.output_dir))
    checkpoint = last_checkpoint(folder, with_best=trainer.args.load_best_model_at_end)
    if checkpoint is not None and _follow_checkpoint(trainer.args, checkpoint):
        logger.warning(
            f"the run in {folder} is finished ({checkpoint.name}): its model is evaluated again. Choose another "
            "output_dir to train again."
        )
        for shown in (PrinterCallback, ProgressCallback):  # they would show the speed of no steps
            trainer.remove_callback(shown)
    elif checkpoint is not None:
        logger.warning(f"resuming from {checkpoint}")
    for callback in (WriteManifests, FindBest):
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (KeyboardInterrupt, SystemExit):
        if trainer.signal_received is None:
            raise
        raise TrainingStoppedError(trainer.signal_received, str(folder)) from None
    # The first process to end removes checkpoints of which others, with load_best_model_at_end, still read the best.
    PartialState().wait_for_everyone()
    if trainer.state.global_step == 0:
        raise ValueError(
            f"num_train_epochs={trainer.args.num_train_epochs}, max_steps={trainer.args.max_steps}: no step was "
            "trained: raise them."
        )
    merge_adapters(trainer)


def _follow_checkpoint(args: Any, checkpoint: Path) -> bool:
    """Take from a checkpoint what the arguments leave open: intervals in steps, and whether training has stopped.

    Returns:
        Whether no step is left to train.
    """
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    for name in ("logging_steps", "eval_steps", "save_steps"):
        if 0 < (getattr(args, name) or 0) < 1:
            setattr(args, name, getattr(state, name))
    stopped = has_stopped(args, state.log_history)
    if stopped:
        args.max_steps = state.global_step
    return stopped or state.global_step >= state.max_steps


def load_finished(trainer: DistillationTrainer, student: PreTrainedModel, folder: Path) -> None:
    """Bring a trainer to where its training ended: the student, the log, and the state of λ if it judges labels.

    Args:
        trainer: as before training.
        student: the finished one.
        folder: the student's.

    Raises:
        ValueError: the state is missing or damaged.
    """
    file = folder / TRAINER_STATE_NAME
    try:
        trainer.state = TrainerState.load_from_json(str(file))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"output_dir={str(folder)!r} holds a finished student, whose {file.name} cannot be read ({error}): choose "
            "another output_dir, or remove that run."
        ) from error
    trainer.is_fsdp_enabled = False  # it would shard the model, which it can only together with an optimizer
    trainer.model = student.to(trainer.args.device)
    if can_judge(trainer):
        of_lambda = next(found for found in trainer.callback_handler.callbacks if isinstance(found, LambdaCheckpoint))
        of_lambda.on_train_begin(trainer.args, trainer.state, trainer.control)
    logger.warning(
        f"the run in {folder} is finished: its student is evaluated again. Choose another output_dir to train again."
    )
