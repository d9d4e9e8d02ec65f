"""The callback that keeps λ's state in checkpoints."""

import dataclasses
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_kd_lambda.balancing.rules import make_rule
from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.trainer.config import DistillationConfig

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
