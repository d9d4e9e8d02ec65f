"""The order of the examples: grouped by length in training, that of the dataset in evaluation."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_kd_lambda.trainer.sampling import lengths_to_group


class OrderedEvaluation(Trainer):
    """A `Trainer` that keeps `group_by_length` to training, since it shuffles what is evaluated and predicted, too."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """As the Trainer's, which takes a minute to find the lengths of a million examples."""
        lengths = lengths_to_group(self.args, train_dataset, self.processing_class)
        if lengths is None:
            return super()._get_train_sampler(train_dataset)
        grouped = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(grouped, lengths=lengths)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As the Trainer's, in the order of the examples."""
        with self._in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As the Trainer's, in the order of the examples, which predictions are matched with."""
        with self._in_order():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        strategy, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "sequential"
        try:
            yield
        finally:
            self.args.train_sampling_strategy = strategy
