"""What fine-tuning a teacher and distilling a student have in common."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput

from hf_kd_lambda.trainer.console import use_short_lines
from hf_kd_lambda.trainer.early_stopping import EarlyStopping
from hf_kd_lambda.trainer.epoch_order import EpochOrder, check_workers
from hf_kd_lambda.trainer.finite_losses import FiniteWeights
from hf_kd_lambda.trainer.sampling import lengths_to_group
from hf_kd_lambda.trainer.save_on_signal import SaveOnSignal, interruption
from hf_kd_lambda.utils.changed import changed

_IN_ORDER = {"train_sampling_strategy": "sequential", "dataloader_in_order": True}


class BaseTrainer(Trainer):
    """A `Trainer` that a signal stops with a checkpoint, and that stops early where its arguments say so.

    It keeps `group_by_length` to training, since that shuffles what is evaluated and predicted, too.

    Args:
        args, kwargs: see `Trainer`.

    Raises:
        ValueError: see `check_workers`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_workers(self.args, self.train_dataset)
        self._save_on_signal = SaveOnSignal()
        for callback in (self._save_on_signal, EpochOrder(), EarlyStopping(), FiniteWeights()):
            self.add_callback(callback)
        use_short_lines(self)

    @property
    def signal_received(self) -> signal.Signals | None:
        """The signal that ended training early, with a checkpoint; None if there was none."""
        return self._save_on_signal.received

    @property
    def has_ended(self) -> bool:
        """Whether the last step is made; a finished run that is resumed would make one more."""
        return self.state.global_step >= self.state.max_steps

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's; also a training that fails leaves no signal handler.

        Raises:
            KeyboardInterrupt: Ctrl-C ended training, and a checkpoint is saved.
            SystemExit: SIGTERM did.
        """
        try:
            output = super().train(*args, **kwargs)
        finally:
            self._save_on_signal.end(self.args)
        if self.signal_received is not None:
            self.accelerator.wait_for_everyone()  # the first process to end makes the launcher stop others, which save
            raise interruption(self.signal_received)
        return output

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """As the Trainer's, and none after the last step."""
        return ([], None) if self.has_ended else super().get_batch_samples(epoch_iterator, num_batches, device)

    def get_train_dataloader(self) -> DataLoader:
        """As the Trainer's, with workers that leave signals to this process."""
        return _shielded(super().get_train_dataloader())

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """As the Trainer's, which takes a minute to find the lengths of a million examples."""
        lengths = lengths_to_group(self.args, train_dataset, self.processing_class)
        if lengths is None:
            return super()._get_train_sampler(train_dataset)
        grouped = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(grouped, lengths=lengths)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As the Trainer's, in the order of the examples."""
        with changed(self.args, **_IN_ORDER):
            return _shielded(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As the Trainer's, in the order of the examples, which predictions are matched with."""
        with changed(self.args, **_IN_ORDER):
            return _shielded(super().get_test_dataloader(test_dataset))


def _shielded(loader: DataLoader) -> DataLoader:
    """The loader, whose workers a signal to the whole group of processes does not end, as this would end the step."""
    inner = getattr(loader, "base_dataloader", loader)  # Accelerate's wrapper has it
    begin = inner.worker_init_fn
    if getattr(begin, "func", None) is not _begin_worker:  # of a loader that the Trainer keeps
        inner.worker_init_fn = partial(_begin_worker, begin, os.getpid())
    return loader


def _begin_worker(begin: Callable[[int], None] | None, owner: int, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for, args=(owner,), daemon=True).start()
    if begin is not None:
        begin(number)


def _end_for(owner: int) -> None:
    """End this process at a SIGTERM from the one that owns the loader, its parent or not, and at no other."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != owner:
        pass
    os._exit(0)
