"""The callback that saves a checkpoint when Ctrl-C or SIGTERM stops training."""

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

logger = logging.get_logger(__name__)


class SaveOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM the step or evaluation under way is finished, a checkpoint saved and training left.

    A second signal to the same process interrupts at once. All ranks stop at the same step, whichever was signalled. A
    signal after the last evaluation ends nothing, since training has ended.

    Attributes:
        received: the signal that ended training with a checkpoint, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._signal: signal.Signals | None = None  # this process itself, not another rank
        self._is_training = False
        self._limit: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen to both signals, which only a process's main thread can."""
        self.end(args)  # the Trainer begins again when it finds a batch size by trial
        self.received, self._is_training, self._limit = None, True, args.save_total_limit
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not None:  # a handler that was set from C could not be put back
                self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            self.received = None
            self._restore_handlers()
            raise KeyboardInterrupt(number)
        self._signal = signal.Signals(number)
        logger.warning(f"{self._signal.name}: finishing this step, then saving a checkpoint. Once more ends it now.")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask the Trainer to save and stop, if any rank was signalled."""
        self._stop_if_signalled(args, control)
        if self.received and args.save_strategy == SaveStrategy.BEST:
            control.should_evaluate = False  # after which none but the best would be saved

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The same after an evaluation within training, which may be the last; nothing before the first step."""
        if self._is_training and state.global_step and args.save_strategy != SaveStrategy.BEST:
            self._stop_if_signalled(args, control)

    def _stop_if_signalled(self, args: TrainingArguments, control: TrainerControl) -> None:
        number = self._signal.value if self._signal else 0
        if dist.is_initialized() and dist.get_world_size() > 1:
            numbers = torch.tensor(number, device=args.device)
            dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
            number = int(numbers.item())
        if number:
            self.received = signal.Signals(number)
            control.should_save = True
            control.should_training_stop = True
            args.save_total_limit = None  # with a limit of 1, the Trainer ends by removing all but the best checkpoint

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave out the evaluation of an epoch cut short, which the run would not have had without the signal."""
        if self.received and state.epoch % 1 and state.global_step < state.max_steps:
            control.should_evaluate = False
            control.should_save = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See `end`."""
        self.end(args)

    def end(self, args: TrainingArguments) -> None:
        """Stop listening, and let a later run remove old checkpoints again; nothing if that is done already."""
        self._restore_handlers()
        if self._is_training:
            args.save_total_limit = self._limit
        self._signal, self._is_training = None, False

    def _restore_handlers(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


def interruption(received: signal.Signals) -> BaseException:
    """What a signal that ended training raises: what Ctrl-C always does, or the end of the program on SIGTERM."""
    return KeyboardInterrupt() if received is signal.SIGINT else SystemExit(128 + received)
