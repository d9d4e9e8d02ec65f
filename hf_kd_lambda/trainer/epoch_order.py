"""The callback that makes the order of batches depend on seed and epoch alone."""

from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler


def check_workers(args: TrainingArguments, examples: Any) -> None:
    """Refuse workers that `EpochOrder` would not reach.

    Raises:
        ValueError: they persist, and the examples are changed at random.
    """
    if args.dataloader_persistent_workers and _transform(examples) is not None:
        raise ValueError(
            "dataloader_persistent_workers=True: workers that persist do not learn of the next epoch, and would "
            "repeat the first one's augmentation: leave it out."
        )


def _transform(examples: Any) -> Any:
    """What changes examples at random, from a seed for each epoch; None where nothing does."""
    transform = examples.format["format_kwargs"].get("transform") if isinstance(examples, Dataset) else None
    return transform if hasattr(transform, "set_seed") else None


class EpochOrder(TrainerCallback):
    """Has length-grouped batches and augmented images depend on seed and epoch alone, as random batches do.

    Else a resumed run, whose random numbers start again, would continue in another order, and with other images.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed the sampler, which lies below what Accelerate puts around it, and what changes images at random."""
        seed = (args.seed if args.data_seed is None else args.data_seed) + int(state.epoch or 0)
        loader = kwargs.get("train_dataloader")
        transform = _transform(getattr(loader, "dataset", None))
        if transform is not None:
            transform.set_seed(seed)
        sampler = getattr(loader, "batch_sampler", None)
        while sampler is not None and not isinstance(sampler, LengthGroupedSampler):
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        if sampler is not None:
            sampler.generator = torch.Generator().manual_seed(seed)
