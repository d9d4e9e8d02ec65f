"""Evaluation in the order of the examples, whatever order they are trained in."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader
from transformers import Trainer


class OrderedEvaluation(Trainer):
    """A `Trainer` that keeps `group_by_length` to training, since it shuffles what is evaluated and predicted, too."""

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
