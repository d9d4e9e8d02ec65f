"""The callback that keeps the student's predictions of earlier passes, which `trust` judges by."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate.utils import reduce
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from hf_kd_lambda.balancing.balancer import Balancer
from hf_kd_lambda.balancing.class_reliabilities import COUNTED_OUTPUTS
from hf_kd_lambda.balancing.past_predictions import PastPredictions
from hf_kd_lambda.data.columns import EXAMPLE_ROW, are_classified, joined

logger = logging.get_logger(__name__)

PAST_PREDICTIONS = "past_predictions.safetensors"


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
        trust = self.balancer.state is not None and self.balancer.state.trust is not None
        if not (trust and self.classes in COUNTED_OUTPUTS and are_classified(examples)):
            return examples
        self._examples = len(examples)
        self._resumed = get_last_checkpoint(output_dir) if resumed is True else resumed or None
        return numbered(examples)

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
                load_predictions(self.balancer.past, Path(self._resumed))

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
            save_file({"past": self.balancer.past.past}, checkpoint / PAST_PREDICTIONS)


def load_predictions(predictions: PastPredictions, folder: Path) -> None:
    """Continue with the predictions in a checkpoint; with none, and a warning, if it has none.

    Raises:
        ValueError: they are damaged, or on other examples or classes.
    """
    file = folder / PAST_PREDICTIONS
    if not file.exists():
        logger.warning(f"{folder} has no {file.name}: trust continues without the predictions of earlier epochs.")
        return
    try:
        past = load_file(file)["past"]
    except (SafetensorError, LookupError) as error:
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
    predictions.past = past.to(predictions.past.device)


def numbered(examples: Dataset) -> Dataset:
    """The examples with a column of their positions."""
    if EXAMPLE_ROW in examples.column_names:
        examples = examples.remove_columns(EXAMPLE_ROW)
    return joined(examples, Dataset.from_dict({EXAMPLE_ROW: np.arange(len(examples))}))


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    return cast(Tensor, reduce(tensor, "sum"))
