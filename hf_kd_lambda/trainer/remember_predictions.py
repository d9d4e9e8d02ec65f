"""The callback that keeps the student's predictions of earlier passes, which `trust` judges by."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate.utils import reduce
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from hf_kd_lambda.balancing.balancer import Balancer
from hf_kd_lambda.balancing.class_reliabilities import COUNTED_OUTPUTS
from hf_kd_lambda.balancing.past_predictions import PastPredictions, size_of
from hf_kd_lambda.data.columns import (
    EXAMPLE_ROW,
    TEACHER_LOGITS,
    are_classified,
    column_names,
    joined,
    label_columns,
)
from hf_kd_lambda.utils.fingerprint import examples_digest

logger = logging.get_logger(__name__)

PAST_PREDICTIONS = "past_predictions.safetensors"
LARGEST = 2**29
"""Bytes of predictions that are remembered: twice as much is in memory, as past and present ones are apart.

44 million examples of two classes, or 1.3 million of 100, have more. They are trained for few epochs, in which the
student memorises little, so that its present predictions are nearly as good."""


class RememberPredictions(TrainerCallback):
    """Begins `PastPredictions` with a run, ends a pass where an epoch ends, and writes it into checkpoints.

    Only predictions on examples with one label of 2 to 100 classes are remembered. The examples must have a column of
    the teacher's logits, cached or given: then they are the same in each epoch, and rows of a batch are known to be
    in the order of the examples.

    Args:
        balancer: the balancer that uses the predictions.
        classes: number of classes of an item.
    """

    def __init__(self, balancer: Balancer, classes: int) -> None:
        self.balancer = balancer
        self.classes = classes
        self._examples: int | None = None  # their number; None if nothing is remembered
        self._digest = ""  # of their tokens and labels, by which they are recognised in their order
        self._resumed: str | None = None

    def begin(self, examples: Any, resumed: str | bool | None, output_dir: str) -> Any:
        """Prepare a run, before the Trainer makes its batches.

        Args:
            examples: the training examples.
            resumed: folder of the checkpoint that the run resumes from; True for the last one in `output_dir`.
            output_dir: folder of the run.

        Returns:
            The examples, with a column of their positions if predictions are remembered.
        """
        self.balancer.past, self._examples = None, None
        self._resumed = get_last_checkpoint(output_dir) if resumed is True else resumed or None
        if not (self._judges_classes and are_classified(examples)):
            if self._judges_classes and self._resumed and (Path(self._resumed) / PAST_PREDICTIONS).exists():
                logger.warning(
                    f"{self._resumed} has predictions of earlier epochs, which trust does not use any more, since "
                    "the examples have no cached logits, or not one label each: set cache_teacher and "
                    "give labels as before."
                )
            return examples
        with_rows = numbered(examples)
        if obstacle := self._obstacle(with_rows):
            logger.warning(f"trust judges by the student's present predictions, not those of all epochs: {obstacle}.")
            return examples
        self._examples = len(examples)
        tokens = {"input_ids"} & set(examples.column_names)
        self._digest = examples_digest(with_rows, {*label_columns(examples), *tokens})
        return with_rows

    def _obstacle(self, examples: Dataset) -> str | None:
        size = size_of(len(examples), self.classes)
        if size > LARGEST:
            return (
                f"on {len(examples):,} examples, these take {2 * size / 1e9:.1f} GB of each process's memory, more "
                f"than {2 * LARGEST / 1e9:.1f} GB"
            )
        if EXAMPLE_ROW not in examples[0]:
            return f"the transform of train_dataset drops the column {EXAMPLE_ROW}; have it return all columns"
        return None

    def size_in_checkpoint(self, examples: Any, caches: bool) -> int:
        """Bytes that a checkpoint has of the predictions, at most.

        Args:
            examples: the training examples, before the teacher's outputs are cached.
            caches: whether they are going to be.
        """
        has_logits = caches or TEACHER_LOGITS in column_names(examples)
        if not (self._judges_classes and has_logits and label_columns(examples)):
            return 0
        size = size_of(len(examples), self.classes)
        return size if size <= LARGEST else 0

    @property
    def _judges_classes(self) -> bool:
        state = self.balancer.state
        return state is not None and state.trust is not None and self.classes in COUNTED_OUTPUTS

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin with the predictions in the checkpoint, or with none.

        `auto_find_batch_size` begins again where memory ran out: what was predicted until then does not count twice.

        Raises:
            ValueError: see `load_predictions`.
        """
        if self._examples is not None:
            self.balancer.past = PastPredictions(self._examples, self.classes, self.balancer.device)
            if self._resumed:
                load_predictions(self.balancer.past, Path(self._resumed), self._digest)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the pass."""
        if self.balancer.past is not None:
            self.balancer.past.end_pass(_sum_over_ranks)

    def save(self, checkpoint: Path, args: TrainingArguments) -> None:
        """Write the predictions of all ranks, which must all call this, into a checkpoint that is being saved.

        The event `on_save` would be too late: it comes after `trainer_state.json`, the last file of a complete
        checkpoint, and after the push to the Hub.
        """
        if self.balancer.past is None or args.save_only_model:
            return
        self.balancer.past.end_pass(_sum_over_ranks)
        if args.should_save:
            checkpoint.mkdir(parents=True, exist_ok=True)
            save_file({"past": self.balancer.past.past}, checkpoint / PAST_PREDICTIONS, {"examples": self._digest})


def load_predictions(predictions: PastPredictions, folder: Path, examples: str) -> None:
    """Continue with the predictions in a checkpoint; with none, and a warning, if it has none.

    Args:
        predictions: those of this run.
        folder: the checkpoint.
        examples: digest of this run's examples, which tells others and another order.

    Raises:
        ValueError: they are damaged, or on other examples or classes.
    """
    file = folder / PAST_PREDICTIONS
    if not file.exists():
        logger.warning(f"{folder} has no {file.name}: trust continues without the predictions of earlier epochs.")
        return
    try:
        with safe_open(file, "pt") as saved:
            past, metadata = saved.get_tensor("past"), saved.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{file} is damaged ({error}): resume from another checkpoint, or delete this file to continue without "
            "the predictions of earlier epochs."
        ) from error
    if past.shape != predictions.past.shape:
        saved, own = ((len(sums), sums.shape[1] - 1) for sums in (past, predictions.past))
        raise ValueError(
            f"{file} has predictions on {saved[0]} training examples with {saved[1]} classes, but this run has "
            f"{own[0]} with {own[1]}: resume with the data of then, or train from the start."
        )
    if metadata.get("examples", examples) != examples:
        raise ValueError(
            f"{file} has predictions on other training examples, or in another order: resume with the data of then, "
            "or train from the start."
        )
    predictions.past = past.to(predictions.past.device)


def numbered(examples: Dataset) -> Dataset:
    """The examples with a column of their positions."""
    if EXAMPLE_ROW in examples.column_names:
        examples = examples.remove_columns(EXAMPLE_ROW)
    return joined(examples, Dataset.from_dict({EXAMPLE_ROW: np.arange(len(examples))}))


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    return cast(Tensor, reduce(tensor, "sum"))
