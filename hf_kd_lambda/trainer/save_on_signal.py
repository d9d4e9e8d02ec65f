"""What rides along with a training run: λ's state, a checkpoint when it is told to stop, the order of its batches."""

import dataclasses
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import SaveStrategy
from transformers.utils import logging

from hf_kd_lambda.config import DistillationConfig
from hf_kd_lambda.images import Augmentation
from hf_kd_lambda.lambda_rules import make_rule
from hf_kd_lambda.lambda_state import LambdaState

logger = logging.get_logger(__name__)

KIND = ("rule", "groups", "losses")  # what λ's state is of


class LambdaCheckpoint(TrainerCallback, ExportableState):
    """Keeps λ's state in `trainer_state.json`, the last file of a checkpoint to be written, and takes it from there.

    Args:
        rule: name of a rule that measures.
        hyper: its hyper-parameters.
        settings: the other arguments of `LambdaState`. All are JSON values, since the Trainer may build this callback
            anew from a checkpoint.
    """

    def __init__(self, rule: str, hyper: dict[str, Any], **settings: Any) -> None:
        self.settings = {"rule": rule, "hyper": hyper, **settings}
        self.lambda_state = LambdaState(make_rule(rule, hyper), **settings)

    @classmethod
    def from_config(
        cls, config: DistillationConfig, groups: int | None = None, losses: list[float] | None = None
    ) -> "LambdaCheckpoint":
        """The callback for the λ settings of a run; `groups` and `losses` as in `LambdaState`."""
        weight = config.kd_weight
        if config.lambda_form == "additive":
            initial = weight
        else:
            initial = weight / (1 - weight) if weight < 1 else config.lambda_max
        return cls(
            rule=config.lambda_rule,
            hyper=dataclasses.asdict(config.rule),
            initial=initial,
            decay=config.gram_decay,
            bounds=(config.lambda_min, config.lambda_max),
            max_change=config.lambda_max_change,
            form=config.lambda_form,
            groups=groups,
            losses=losses,
        )

    def state(self) -> dict[str, Any]:
        """What `TrainerState` saves for this callback."""
        return {"args": self.settings, "attributes": {"saved": self.lambda_state.state_dict()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over λ's state: a resumed run's `TrainerState` holds the checkpoint's, a new run's the present one.

        A checkpoint of the last step of the first pass is of before `on_epoch_end`.

        Raises:
            ValueError: the checkpoint's is of another rule, or of other layers or losses.
        """
        exported = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        saved, own = ({name: each[name] for name in KIND} for each in (exported["args"], self.settings))
        if saved != own:
            raise ValueError(
                f"λ's state in the checkpoint is of {saved}, and this run's of {own}: resume with the lambda_rule, "
                "lambda_scope and kd_losses of then, or train from the start."
            )
        self.lambda_state.load_state_dict(exported["attributes"]["saved"])
        if (state.epoch or 0) >= 1:
            self._close_the_vote()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the vote, as the student has been trained on all examples."""
        self._close_the_vote()

    def _close_the_vote(self) -> None:
        if self.lambda_state.evidence is not None:
            self.lambda_state.evidence.closed = True


class SaveOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM the step or evaluation under way is finished, a checkpoint saved and training left.

    A second signal to the same process interrupts at once. All ranks stop at the same step, whichever was signalled. A
    signal after the last evaluation ends nothing, since training has ended.

    Attributes:
        received: the signal that ended training, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._told: signal.Signals | None = None  # this process itself, not another rank
        self._is_training = False
        self._limit: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Listen to both signals, which only a process's main thread can."""
        self.received, self._told, self._is_training, self._limit = None, None, True, args.save_total_limit
        if threading.current_thread() is not threading.main_thread():
            return
        self.restore_handlers()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            self.restore_handlers()
            raise KeyboardInterrupt
        self._told = signal.Signals(number)
        logger.warning(f"{self._told.name}: finishing this step, then saving a checkpoint. Once more ends it now.")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask the Trainer to save and stop, if any rank was signalled."""
        self._stop_if_told(args, control)
        if self.received and args.save_strategy == SaveStrategy.BEST:
            control.should_evaluate = False  # after which none but the best would be saved

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The same after an evaluation within training, which may be the last."""
        if self._is_training and args.save_strategy != SaveStrategy.BEST:
            self._stop_if_told(args, control)

    def _stop_if_told(self, args: TrainingArguments, control: TrainerControl) -> None:
        number = self._told.value if self._told else 0
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
        """Stop listening, and let a later run remove old checkpoints again."""
        self.restore_handlers()
        self._is_training = False
        args.save_total_limit = self._limit

    def restore_handlers(self) -> None:
        """Give both signals back to whom they belonged; nothing if that is done already."""
        while self._previous:
            signal.signal(*self._previous.popitem())


class EpochOrder(TrainerCallback):
    """Has length-grouped batches and augmented images depend on seed and epoch alone, as random batches do.

    Else a resumed run, whose random numbers start anew, would go on in another order, and with other images.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed the sampler, which lies below what Accelerate puts around it, and what changes images at random."""
        seed = (args.seed if args.data_seed is None else args.data_seed) + int(state.epoch or 0)
        loader = kwargs.get("train_dataloader")
        examples = getattr(loader, "dataset", None)
        if isinstance(examples, Dataset):
            transform = examples.format["format_kwargs"].get("transform")
            if isinstance(transform, Augmentation):
                transform.seed = seed
        sampler = getattr(loader, "batch_sampler", None)
        while sampler is not None and not isinstance(sampler, LengthGroupedSampler):
            sampler = getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)
        if sampler is not None:
            sampler.generator = torch.Generator().manual_seed(seed)


def signal_received(callbacks: Iterable[TrainerCallback]) -> signal.Signals | None:
    """The signal that ended training early, among the callbacks of a trainer; None if it ran to its end."""
    return next((each.received for each in callbacks if isinstance(each, SaveOnSignal)), None)
