"""The Trainer that sets λ from the gradients of task loss and KD loss."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hf_kd_lambda.balancing.rules import loss_weights
from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.balancing.votes import Evidence
from hf_kd_lambda.data.collators import ShiftedLabels
from hf_kd_lambda.data.columns import TEACHER_LOGITS, column_names, forward_parameters, own_inputs
from hf_kd_lambda.gradients.adam_metric import check_adam
from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.gradients.layer_groups import layer_groups
from hf_kd_lambda.losses.base import PROJECTED
from hf_kd_lambda.losses.functional import count_items
from hf_kd_lambda.losses.functional.labels import targets
from hf_kd_lambda.losses.objective import Losses, Objective
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.intermediate_outputs import forward_flags, gives
from hf_kd_lambda.models.labels import align_labels, own_label_names
from hf_kd_lambda.models.padding import align_pad_token
from hf_kd_lambda.models.projections import drop_projections, left_out
from hf_kd_lambda.reports.figure import plot_lambda
from hf_kd_lambda.reports.model_card import CARD, FIGURE, model_card
from hf_kd_lambda.teacher.cache_format import KeptOutputs
from hf_kd_lambda.teacher.checks import check_apart, check_columns, check_next_tokens, check_teacher_logits
from hf_kd_lambda.teacher.collator import ColumnCollator
from hf_kd_lambda.teacher.teacher_outputs import SoftTargets
from hf_kd_lambda.trainer.card import facts_of_trainer
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.epoch_order import EpochOrder
from hf_kd_lambda.trainer.lambda_checkpoint import LambdaCheckpoint
from hf_kd_lambda.trainer.limits import (
    check_given_model,
    check_problem,
    check_projections,
    check_strategy,
    check_student,
    check_top_logits,
    check_votes,
    warn_of_blind_measurements,
)
from hf_kd_lambda.trainer.log_buffers import EvaluationRecord, StepRecord
from hf_kd_lambda.trainer.measuring_step import MeasuringStep
from hf_kd_lambda.trainer.prepare_models import match
from hf_kd_lambda.trainer.sampling import sampling_strategy
from hf_kd_lambda.trainer.save_on_signal import SaveOnSignal, signal_received
from hf_kd_lambda.utils.allocator import keep_freed_memory


class DistillationTrainer(Trainer):
    """A `Trainer` whose loss is w_task·task_loss + w_kd·kd_loss, with weights set from the gradients of both.

    On a measuring step (every `lambda_interval` optimizer steps) the two losses of one student forward are
    backpropagated apart, both gradients averaged over ranks, and λ taken from their Gram matrix (arXiv 2505.06270);
    w_task·g_task + w_kd·g_kd is then what is clipped and stepped along. Other steps, and all of a rule that measures
    nothing, are the Trainer's own with one backward pass.

    Columns named `teacher_*` (say `teacher_input_ids`, of a teacher with its own tokenizer) go to the teacher without
    the prefix and replace the student's; all other columns go to whichever model's `forward` names them. A column
    `teacher_logits` is what the teacher said: `cache_teacher` adds it before training, and a dataset that brings it
    needs no teacher.

    A causal language model learns at each position from the label of the next, as everywhere in transformers.
    A student with PEFT's adapters learns through these alone: they are what is measured, stepped and saved.

    `compute_loss_func(outputs, labels, num_items_in_batch)`, if given, is the task loss. It must depend on the student
    through `outputs` alone. Labels are one an item; of several classes, such as are no classes need another rule than
    `evidence`.

    Args:
        teacher: predicts the soft targets. It is frozen and put into eval mode; if its labels are the student's in
            another order, its outputs are permuted. None where every dataset has a column `teacher_logits`, in the
            order of the student's labels; of tokens with a row for each, special ones too.
        args: see `DistillationConfig`.

    Raises:
        ValueError: teacher and student do not fit each other, or a strategy is asked for that cannot work (DeepSpeed,
            FSDP1, DataParallel, reentrant checkpointing, LOMO, Adam's metric without Adam, `model_init`).
    """

    args: DistillationConfig
    data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: DistillationConfig,
        *,
        teacher: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        check_given_model(model)
        # The Trainer would drop what the student does not take: the teacher's inputs, and its logits.
        drops_columns, args = args.remove_unused_columns, copy.copy(args)
        args.remove_unused_columns = False
        super().__init__(model, args, **kwargs)
        check_strategy(args, self.accelerator)
        student_config: Any = model.config
        check_problem(student_config)
        causal = is_causal(model)
        if causal and args.cache_top_logits is None:
            args.cache_teacher = False  # to read logits of a whole vocabulary takes longer than to compute them
        if teacher is not None:
            check_apart(teacher, model)
            if causal:
                check_next_tokens(teacher, model)
                teacher.config.use_cache = False  # keys and values are for generation
            else:
                align_labels(teacher, own_label_names(model))
        num_outputs = student_config.vocab_size if causal else student_config.num_labels
        check_top_logits(args, model, num_outputs)
        warn_of_blind_measurements(args, num_outputs, self.accelerator.is_fsdp2)
        for dataset in self._datasets():
            if columns := column_names(dataset):
                check_columns(columns, teacher, model)
                if TEACHER_LOGITS in columns and hasattr(dataset, "__getitem__"):  # and is no stream
                    check_teacher_logits(dataset[0][TEACHER_LOGITS], num_outputs)
        processor, owns_inputs = self.processing_class, any(own_inputs(column_names(d)) for d in self._datasets())
        if teacher is not None and not owns_inputs and getattr(processor, "pad_token", None) is not None:
            align_pad_token(teacher, cast(PreTrainedTokenizerBase, processor))
        self._objective = Objective(
            args.kd_losses_for(num_outputs),
            args.temperature,
            args.label_smoothing_factor,
            self.compute_loss_func,
        )
        args.train_sampling_strategy = sampling_strategy(args, [self.train_dataset], self.processing_class)
        self._student_inputs = forward_parameters(model)
        taken = self._student_inputs if teacher is None else self._student_inputs | forward_parameters(teacher)
        collate = ShiftedLabels(self.data_collator) if causal else self.data_collator
        self.data_collator = ColumnCollator(collate, taken if drops_columns else None)
        asked = {name for name in self._objective.needs if not gives(student_config, name)}
        self._added_outputs = {PROJECTED, *asked}
        drop_projections(model)
        kept = self._kept_outputs(self._match(model, teacher) if self._objective.needs else ())
        check_student(model, self.optimizer)
        self._soft_targets = SoftTargets(teacher, self.accelerator, self._objective.needs, kept)

        if args.torch_compile:
            torch._functorch.config.donated_buffer = False  # a measuring step goes back through its graph twice

        # Both losses are divided by the items of the whole accumulated batch, so that the Trainer has to count them
        # and must not divide by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

        self.add_callback(SaveOnSignal)
        self.add_callback(EpochOrder)
        self._rule = args.rule
        self._interval = args.interval
        self._lambda_names: list[str] = []
        groups = losses = None
        if args.lambda_scope == "layer":
            names = [name for name, each in model.named_parameters() if each.requires_grad]
            _, self._lambda_names = layer_groups(names)
            groups = len(self._lambda_names)
        elif args.lambda_scope == "loss":
            self._lambda_names, losses = list(self._objective.kd_losses), self._objective.weights
        if self._rule.measures:
            self.add_callback(LambdaCheckpoint.from_config(args, groups, losses))
        if args.gram_metric == "adam" and self.optimizer is not None:
            check_adam(self.optimizer)
        self._step: MeasuringStep | None = None
        self._votes = torch.zeros(2, device=args.device)
        self._step_record = StepRecord(self._objective.names, args.device)
        self._evaluation_record = EvaluationRecord(self._objective.names)

    def _match(self, student: PreTrainedModel | nn.Module, teacher: PreTrainedModel | None) -> tuple[bool, ...]:
        names, datasets = ", ".join(self._objective.kd_losses), self._datasets()
        if teacher is None:
            raise ValueError(f"kd_losses: {names} needs more of the teacher than its logits: give a teacher.")
        if not datasets:
            raise ValueError(f"kd_losses: {names} needs an example to fit student and teacher: give train_dataset.")
        hidden_states = match(self._objective, student, teacher, self.data_collator([next(iter(datasets[0]))]))
        check_projections(student)
        return hidden_states

    def _kept_outputs(self, hidden_states: tuple[bool, ...]) -> KeptOutputs | None:
        if self._objective.needs - ({"hidden_states"} if self.args.cache_hidden_states else set()):
            return None
        if self.args.cache_top_logits is None:
            return KeptOutputs(hidden_states)
        return KeptOutputs(hidden_states, self.args.cache_top_logits, self.args.temperature)

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The teacher; None where the examples bring its logits. Setting None lets go of it."""
        return self._soft_targets.teacher

    @teacher.setter
    def teacher(self, teacher: None) -> None:
        self._soft_targets.teacher = teacher

    @property
    def lambda_state(self) -> LambdaState | None:
        """λ's state; None for a rule that measures nothing."""
        callbacks = self.callback_handler.callbacks
        return next((each.lambda_state for each in callbacks if isinstance(each, LambdaCheckpoint)), None)

    @property
    def _evidence(self) -> Evidence | None:
        return None if self.lambda_state is None else self.lambda_state.evidence

    @property
    def loss_weights(self) -> tuple[Tensor, Tensor]:
        """(w_task, w_kd) in force: scalar tensors on the training device, of λ's geometric mean over layers."""
        state, form = self.lambda_state, self.args.lambda_form
        if state is None:
            done = self.state.global_step / max(self.state.max_steps, 1)
            progress = torch.tensor(done, dtype=torch.float32, device=self.args.device)
            gram = Gram(*torch.ones_like(progress).expand(3))
            weights = self._rule(gram, **dict.fromkeys(self._rule.needs, progress))
            return (2 * weights.task, 2 * weights.kd) if form == "sum_two" else (weights.task, weights.kd)
        state.to(self.args.device)
        if not state.lambda_.dim():
            return state.weights
        return loss_weights(state.lambda_.log().mean().exp(), form, state.total.mean())

    @property
    def stopped_by(self) -> Signals | None:
        """The signal that ended training early, or None."""
        return signal_received(self.callback_handler.callbacks)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer.train` does; a run that is interrupted leaves no half-done step and no signal handler."""
        if self.args.device.type == "cpu":
            keep_freed_memory()
        if self.args.cache_teacher:
            self.cache_teacher()
        try:
            return super().train(*args, **kwargs)
        finally:
            self._step, self._votes = None, torch.zeros_like(self._votes)
            self._step_record = StepRecord(self._objective.names, self.args.device)
            if self._evidence is not None and self.state.global_step:
                self._evidence.closed = True  # the student that another run goes on with knows these examples
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, SaveOnSignal):
                    callback.restore_handlers()

    def cache_teacher(self) -> bool:
        """Add what the teacher says to the examples of training and evaluation: see `KeptOutputs`.

        What was kept before is read; the rest is computed in the precision of the run, by all ranks together, which
        must all call this. Examples of which it cannot be kept stay as they are, with a warning.

        Returns:
            Whether all have them now, so that the teacher waits in the CPU's memory for other examples.
        """
        several = isinstance(self.eval_dataset, dict)
        evaluated = self.eval_dataset if several else {"": self.eval_dataset}
        self.train_dataset, *cached = self._soft_targets.add_to(
            [self.train_dataset, *evaluated.values()],
            folder=self.args.teacher_cache_dir,
            batch_size=self.args.eval_batch_size,
            collate=self.data_collator,
            prepare=self._prepare_inputs,
            progress=not self.args.disable_tqdm,
        )
        self.eval_dataset = dict(zip(evaluated, cached, strict=True)) if several else cached[0]
        return all(self._soft_targets.kept_of(column_names(dataset)) for dataset in self._datasets())

    def _datasets(self) -> list[Any]:
        evaluated = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        return [dataset for dataset in (self.train_dataset, *evaluated) if dataset is not None]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, SequenceClassifierOutput]:
        """The weighted loss with the weights in force: what non-measuring steps descend and evaluation reports."""
        outputs, teacher_outputs = self._student_outputs(model, inputs), self._soft_targets.outputs(inputs)
        num_items = self._num_items(inputs, num_items_in_batch)
        losses = self._losses(outputs, teacher_outputs, inputs, num_items).stacked()
        if model.training:
            self._step_record.add(losses.detach(), ends_step=self.accelerator.sync_gradients)
            self._take_votes(outputs.logits, teacher_outputs, targets(inputs))
        else:
            self._evaluation_record.add(
                outputs.logits,
                self._soft_targets.logits(teacher_outputs, outputs.logits.shape[-1]),
                targets(inputs),
                losses.detach(),
                num_items,
                self.accelerator.gather_for_metrics,
            )
        loss = torch.dot(losses[:2], torch.stack(self.loss_weights))
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One micro-batch of an optimizer step, which ends with w_task·g_task + w_kd·g_kd in `.grad`.

        Returns:
            The loss to log. On a measuring step it is 0 until the last micro-batch, when the weights are known.
        """
        state = self.lambda_state
        if state is None or self.state.global_step % self._interval:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        optimizer = cast(AcceleratedOptimizer, self.optimizer)
        optimizer.train()
        inputs = self._prepare_inputs(inputs)
        step, self._step = self._step or MeasuringStep(model, optimizer, self.accelerator, self.args), None
        with step.local_gradients(), self.compute_loss_context_manager():
            outputs, cut = cut_outputs(self._student_outputs(model, inputs))
            teacher_outputs = self._soft_targets.outputs(inputs)
            num_items = self._num_items(inputs, num_items_in_batch)
            step.backward(cut, self._losses(outputs, teacher_outputs, inputs, num_items))
        self._take_votes(outputs.logits, teacher_outputs, targets(inputs))
        if not self.accelerator.sync_gradients:
            self._step = step  # not before, as `auto_find_batch_size` begins anew where memory was not enough
            return torch.zeros((), device=self.args.device)
        self._step_record.gram = step.finish(state)
        self._step_record.add(step.losses, ends_step=True)
        return torch.dot(step.losses[:2], torch.stack(self.loss_weights))

    def _take_votes(self, student_logits: Tensor, teacher: Mapping[str, Any], labels: Tensor) -> None:
        """Let the student judge between label and teacher, as long as it has not been trained on these examples."""
        evidence = self._evidence
        if evidence is None or evidence.closed:
            return
        check_votes(student_logits, labels)
        self._votes += self._soft_targets.votes(student_logits, teacher, labels)
        if self.accelerator.sync_gradients:
            evidence.update(self.accelerator.reduce(self._votes, "sum"))
            self._votes = torch.zeros_like(self._votes)

    def _student_outputs(self, model: nn.Module, inputs: dict[str, Any]) -> SequenceClassifierOutput:
        flags = forward_flags(self._objective.needs)
        return model(**{name: value for name, value in inputs.items() if name in self._student_inputs}, **flags)

    def _losses(
        self,
        outputs: Mapping[str, Any],
        teacher_outputs: Mapping[str, Any],
        inputs: dict[str, Any],
        num_items: Tensor | int,
    ) -> Losses:
        state = self.lambda_state
        kd_weights = None
        if state is not None and state.split is not None:
            state.to(self.args.device)
            kd_weights = state.split.weights
        return self._objective(outputs, teacher_outputs, inputs, num_items, kd_weights)

    def _num_items(self, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor | int:
        """What both losses' sums over the items of a micro-batch are divided by."""
        if num_items_in_batch is None:
            return count_items(targets(inputs))
        if self.args.average_tokens_across_devices:
            return num_items_in_batch / self.accelerator.num_processes  # by which DDP's average divides once more
        return num_items_in_batch

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As the Trainer's, in the order of the examples."""
        with self._in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As the Trainer's, in the order of the examples, beside which predictions are put."""
        with self._in_order():
            return super().get_test_dataloader(test_dataset)

    @contextlib.contextmanager
    def _in_order(self) -> Iterator[None]:
        """Keep `group_by_length` to training: the Trainer would shuffle what it evaluates and predicts as well."""
        strategy, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "sequential"
        try:
            yield
        finally:
            self.args.train_sampling_strategy = strategy

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student; projections are left out where it is saved for use, and kept in checkpoints."""
        model = self.accelerator.unwrap_model(self.model)
        is_checkpoint = _internal_call and output_dir is not None  # else `push_to_hub` saves, too
        with contextlib.nullcontext() if is_checkpoint else left_out(model):
            super().save_model(output_dir, _internal_call)

    def create_model_card(self, language: str | None = None, **told: Any) -> None:
        """Write the student's model card, and the figure of λ beside it; arguments as for `Trainer`'s own."""
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            plot_lambda(self.state.log_history, folder / FIGURE)
            model_card(facts_of_trainer(self, language=language, **told)).save(folder / CARD)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses, λ and the gradients to the logs of training steps."""
        if "learning_rate" in logs:
            average = partial(self.accelerator.reduce, reduction="mean")
            with_noise = self.args.gram_estimator == "unbiased"
            logs |= self._step_record.take(
                self.loss_weights, self.lambda_state, self._lambda_names, with_noise, average
            )
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Add both losses and the agreement with the teacher to the metrics of `evaluate` and `predict`.

        With several ranks, what pads the last batch counts in the losses, as in the Trainer's own; in nothing else.
        """
        self._evaluation_record = EvaluationRecord(self._objective.names)
        if ignore_keys is None:
            ignore_keys = getattr(cast(Any, self.model).config, "keys_to_ignore_at_inference", [])
        ignore_keys = [*ignore_keys, *self._added_outputs]  # or they would be gathered over a whole evaluation
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        own = {f"{metric_key_prefix}_{name}": value for name, value in self._evaluation_record.metrics().items()}
        return output._replace(metrics=(output.metrics or {}) | own)
