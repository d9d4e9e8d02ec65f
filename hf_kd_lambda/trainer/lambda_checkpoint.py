"""The callback that keeps λ's state in checkpoints."""

from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from hf_kd_lambda.balancing.balancer import Balancer
from hf_kd_lambda.balancing.state import LambdaState


class LambdaCheckpoint(TrainerCallback, ExportableState):
    """Keeps λ's state in `trainer_state.json`, the last file of a checkpoint to be written, and loads it from there.

    With `restore_callback_states_from_checkpoint`, the Trainer replaces a callback by a new one, made of its class and
    of the JSON values that `state` returned. So `of` makes a class for each trainer, which holds what is no JSON.
    """

    balancer: ClassVar[Balancer]
    kind: ClassVar[dict[str, Any]]

    def __init__(self, **_: Any) -> None:
        """The Trainer calls a new one with the kind in the checkpoint, which `on_train_begin` reads itself."""

    @classmethod
    def of(cls, balancer: Balancer, kind: dict[str, Any]) -> "LambdaCheckpoint":
        """The callback of one trainer.

        Args:
            balancer: the balancer with the state.
            kind: what a checkpoint's λ must share with the run's: see `build_lambda.lambda_kind`.
        """
        return type(cls.__name__, (cls,), {"balancer": balancer, "kind": kind})()

    @property
    def lambda_state(self) -> LambdaState:
        """The balancer's."""
        assert self.balancer.state is not None, "only a rule that measures has this callback"
        return self.balancer.state

    def state(self) -> dict[str, Any]:
        """What `TrainerState` saves for this callback."""
        return {"args": self.kind, "attributes": {"saved": self.lambda_state.state_dict()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Load λ's state: that of the checkpoint in a resumed run, the present one in a new run.

        A checkpoint at the last step of a pass was saved before `on_epoch_end`. Without a state of λ, as after
        a run with a fixed weight, the next pass counts as the first.

        Raises:
            ValueError: the checkpoint's state of λ is damaged, or of another rule or other layers, losses or teachers.
        """
        was_saved = type(self).__name__ in state.stateful_callbacks
        exported = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        try:
            self._load(exported)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"λ's state in the checkpoint's {TRAINER_STATE_NAME} is damaged ({type(error).__name__}: {error}): "
                "resume from another checkpoint or with the hf-kd-lambda of then, or train from the start."
            ) from error
        if was_saved and state.epoch and not state.epoch % 1:
            self.balancer.end_first_pass()

    def _load(self, exported: dict[str, Any]) -> None:
        saved = {name: exported["args"].get(name) for name in self.kind}
        if saved != self.kind:
            raise ValueError(
                f"λ's state in the checkpoint is of {saved}, and this run's of {self.kind}: resume with the "
                "lambda_rule, lambda_scope, kd_losses and teachers of then, or train from the start."
            )
        self.balancer.load(exported["attributes"]["saved"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the first pass, as the student has been trained on all examples, unless training was stopped in it."""
        if not (control.should_training_stop and (state.epoch or 0) % 1):
            self.balancer.end_first_pass()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep λ's last state for `Trainer.save_state`, which writes that of the last checkpoint."""
        state.stateful_callbacks[type(self).__name__] = self.state()
