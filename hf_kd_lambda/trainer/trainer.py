"""The Trainer that sets λ from the gradients of task loss and KD loss."""

import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils.memory import clear_device_cache
from huggingface_hub import upload_folder
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.data.columns import EXAMPLE_ROW, forward_parameters
from hf_kd_lambda.gradients.cut import cut_outputs
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import ItemLabels, item_labels, targets
from hf_kd_lambda.losses.functional.spans import logits_of_items
from hf_kd_lambda.losses.objective import BatchLosses, Objective
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.ensemble import members_of
from hf_kd_lambda.models.intermediate_outputs import forward_flags, gives
from hf_kd_lambda.models.labels import own_label_names
from hf_kd_lambda.models.loaded_forms import read_in_own_precision
from hf_kd_lambda.models.projections import PROJECTED, drop_projections, left_out
from hf_kd_lambda.models.protocol import (
    answers_questions,
    as_model_output,
    check_model,
    is_multi_label,
    is_token_level,
)
from hf_kd_lambda.models.teacher_by_name import load_teacher
from hf_kd_lambda.reports.figure import plot_lambda
from hf_kd_lambda.reports.model_card import model_card
from hf_kd_lambda.reports.student_files import LEFT_BY_OTHERS, NEEDED, files_to_push, matching, require_private
from hf_kd_lambda.teacher.checks import check_collator
from hf_kd_lambda.teacher.teacher_outputs import TeacherOutputs
from hf_kd_lambda.trainer import build_lambda, data_checks, setup, strategy_checks, student_checks
from hf_kd_lambda.trainer.base_trainer import BaseTrainer
from hf_kd_lambda.trainer.batches import build_collator, training_batch
from hf_kd_lambda.trainer.card import facts_of_trainer
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.finite_losses import FiniteLosses
from hf_kd_lambda.trainer.lambda_checkpoint import LambdaCheckpoint
from hf_kd_lambda.trainer.log_buffers import EvaluationRecord, StepRecord
from hf_kd_lambda.trainer.measuring_step import MeasuringStep
from hf_kd_lambda.trainer.own_loss import check_own_loss
from hf_kd_lambda.trainer.padded_batches import check_padded_batches
from hf_kd_lambda.trainer.prepare_models import prepare_models
from hf_kd_lambda.trainer.remember_predictions import RememberPredictions
from hf_kd_lambda.utils.allocator import keep_freed_memory
from hf_kd_lambda.utils.changed import changed
from hf_kd_lambda.utils.compiler import allow_two_backwards
from hf_kd_lambda.utils.run_files import CARD, FIGURE


class DistillationTrainer(BaseTrainer):
    """A `Trainer` whose loss is w_task·task_loss + w_kd·kd_loss, with weights set from the gradients of both.

    On a measuring step (every `lambda_interval` optimizer steps) the two losses of one student forward are
    backpropagated separately, both gradients are averaged over ranks, and λ is computed from their Gram matrix (arXiv
    2505.06270); the step is along w_task·g_task + w_kd·g_kd, after clipping. Other steps, and all steps of a rule that
    measures nothing, are the Trainer's own with one backward pass.

    Columns named `teacher_*` (say `teacher_input_ids`, for a teacher with its own tokenizer) go to the teacher without
    the prefix and replace the student's; all other columns go to whichever model's `forward` names them. A column
    `teacher_logits` holds the teacher's outputs: `cache_teacher` adds it before training, and a dataset that brings it
    needs no teacher.

    A causal language model learns at each position from the label of the next, as everywhere in transformers.
    A model for question answering learns start and end of an answer, two items, from the columns `start_positions` and
    `end_positions`. A column `answer_mask` leaves out tokens where no answer can start or end: see `logits_of_items`.
    A student with PEFT's adapters learns through these alone: they are what is measured, stepped and saved.

    With `problem_type="multi_label_classification"` in the student's config, `labels` are 1, 0 or missing (None, NaN,
    -100) for each label. Labels in floats, one for each class, are soft labels: the shares of the classes.

    `compute_loss_func(outputs, labels, num_items_in_batch)`, if given, is the task loss. It must use the student only
    through `outputs`, and needs one label for each item. Set `lambda_rule="evidence"`, or `"adaptive"` if the labels
    are not class indices: the default, `trust`, needs a loss for each item.

    Args:
        model: the student.
        args: see `DistillationConfig`.
        teacher: predicts the soft targets: a model, a Hub id or folder to load it from, or several models as one
            `Ensemble`. It is frozen and put into eval mode; if its labels are the student's in another order, its
            outputs are permuted. None if every dataset has a column `teacher_logits`: logits in the order of the
            student's labels; for token classifiers one row for each token, special tokens included.
        kwargs: see `Trainer`.

    Raises:
        ValueError: teacher and student do not fit each other, or a strategy is asked for that cannot work (DeepSpeed,
            FSDP1, DataParallel, reentrant checkpointing, LOMO, Adam's metric without Adam, `model_init`).
    """

    args: DistillationConfig
    label_names: list[str]
    data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    train_dataset: Any
    eval_dataset: Any
    _step: MeasuringStep | None
    _finite: FiniteLosses
    _finite_gram: FiniteLosses
    _step_record: StepRecord
    _evaluation_record: EvaluationRecord | None = None

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DistillationConfig | None = None,
        *,
        teacher: PreTrainedModel | nn.Module | str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        strategy_checks.check_overrides(type(self), DistillationTrainer)
        student_checks.require_student(model)
        args = setup.check_arguments(args)
        data_checks.check_label_names(args)
        data_checks.check_given_data(args, kwargs.get("train_dataset"), kwargs.get("eval_dataset"))
        model = setup.unwrapped_student(cast(nn.Module, model))
        given = load_teacher(teacher, model)
        teacher = None if given is None else cast(PreTrainedModel, check_model(given, "teacher"))
        for member in [] if teacher is None else members_of(teacher):
            read_in_own_precision(member)
        super().__init__(model, setup.own_arguments(args), **kwargs)
        self._pushes_saved = args.push_to_hub
        if args.push_to_hub:
            self.init_hf_repo()
            self._refuse_public_repository(args.hub_token)
        self.label_names = self.label_names or ["labels"]  # the Trainer finds none if the student's forward has none
        # Models, settings and examples must fit each other before anything is trained.
        num_outputs = self._fit_models(model, teacher)
        own_collator = kwargs.get("data_collator")
        own_columns = self._fit_examples(
            model, teacher, num_outputs, own_collator is not None, args.remove_unused_columns
        )
        # Losses, the teacher's outputs that they need, and λ.
        self._objective = objective = Objective(
            self.args.kd_losses_for(num_outputs),
            self.args.temperature,
            0.0 if self.label_smoother is None else self.args.label_smoothing_factor,  # off for several labels
            self.compute_loss_func,
            setup.class_weights(self.args, model, num_outputs, self.train_dataset, self.data_collator),
        )
        drop_projections(model)
        hidden_states = prepare_models(objective, model, teacher, self._datasets(), self.data_collator)
        student_checks.check_student_weights(model, self.optimizer, self.args.rule.measures)
        classes = build_lambda.item_classes(model, num_outputs)
        teacher_weights = build_lambda.teacher_weights(self.args, teacher, self._datasets(), classes)
        cache_format = setup.cache_format(self.args, objective.needs, hidden_states, num_outputs, teacher_weights)
        of_teacher = objective.needs | ({"member_logits"} if teacher_weights else set())
        self._teacher_outputs = TeacherOutputs(teacher, self.accelerator, of_teacher, cache_format, own_columns)
        self._student_inputs = forward_parameters(model)
        names = build_lambda.lambda_names(self.args, model, objective)
        kind = build_lambda.lambda_kind(self.args, names, objective.weights, teacher_weights)
        unit = build_lambda.label_unit(self.args, classes, self.train_dataset, self.data_collator)
        self.balancer = build_lambda.build_balancer(self.args, names, kind, classes, unit)
        self._remembered = RememberPredictions(self.balancer, 0 if is_multi_label(model) else classes)
        self.add_callback(self._remembered)
        if self.balancer.state is not None:
            self.add_callback(LambdaCheckpoint.of(self.balancer, kind))
        # Both losses are divided by the items of the whole accumulated batch, so that the Trainer has to count them
        # and must not divide by the accumulation steps again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        with_noise = self.args.gram_estimator == "unbiased"
        self._step_record = StepRecord(objective.names, self.balancer, with_noise, self.args.device)
        self.add_callback(self._step_record)
        self._begin_steps()

    def _fit_models(self, model: nn.Module, teacher: PreTrainedModel | None) -> int:
        """Check the settings, fit both models to each other, and return the number of the student's outputs."""
        has_own_task_loss = self.compute_loss_func is not None
        is_adam = strategy_checks.steps_with_adam(self.args, self.optimizer, self.optimizer_cls_and_kwargs)
        strategy_checks.check_strategy(self.args, self.accelerator)
        strategy_checks.check_metric(self.args, is_adam)
        student_checks.check_problem(cast(Any, model).config, has_own_task_loss)
        data_checks.check_padding(self.data_collator, self.processing_class)
        data_checks.check_lengths(self.data_collator, self._datasets())
        num_outputs = setup.align_models(model, teacher)
        setup.resolve_arguments(self.args, model, num_outputs, self.train_dataset, self.processing_class)
        strategy_checks.check_trust(self.args, has_own_task_loss)
        student_checks.check_class_weights(self.args, model, num_outputs, has_own_task_loss)
        student_checks.check_smoothing(self.args, num_outputs, has_own_task_loss)
        strategy_checks.warn_of_blind_measurements(self.args, num_outputs, self.accelerator.is_fsdp2, is_adam)
        return num_outputs

    def _fit_examples(
        self,
        model: nn.Module,
        teacher: PreTrainedModel | None,
        num_outputs: int,
        has_own_collator: bool,
        drops_columns: bool,
    ) -> list[str]:
        """Check the examples, make the collator of both models, and try both where there are training examples.

        Returns:
            The columns that go to the teacher alone.
        """
        trains, has_own_loss = self.train_dataset is not None, self.compute_loss_func is not None
        setup.check_datasets(self._datasets(), model, teacher, num_outputs)
        if not (has_own_collator or has_own_loss or answers_questions(model)):
            names, problem_type = own_label_names(cast(Any, model)) or [], cast(Any, model).config.problem_type
            are_lists = is_token_level(model) or is_causal(model)
            data_checks.check_given_labels(self._datasets(), num_outputs, are_lists, problem_type, names)
        self.data_collator = build_collator(self.data_collator, model, teacher, drops_columns)
        for dataset in self._datasets():
            check_collator(dataset, self.data_collator, teacher)
        own_columns = setup.teacher_columns(self._datasets(), self.data_collator, model, teacher)
        setup.align_padding(model, teacher, self.processing_class, bool(own_columns))
        if trains and not has_own_loss:
            data_checks.warn_without_labels(self.train_dataset, self.data_collator, model)
        if trains and not has_own_loss and self.label_smoother is None:
            check_own_loss(model, self.train_dataset, self.data_collator, num_outputs)
        data_checks.check_evaluation(self.args, self.eval_dataset, self.data_collator, model, has_own_loss)
        if trains and not is_causal(model):
            check_padded_batches(model, teacher, self.train_dataset, self.data_collator)
        return own_columns

    # One optimizer step

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One micro-batch of an optimizer step, which ends with w_task·g_task + w_kd·g_kd in `.grad`.

        Returns:
            The loss to log. On a measuring step it is 0 until the last micro-batch, when the weights are known.
        """
        if not self.balancer.measures_at(self.state.global_step):
            loss = super().training_step(model, inputs, num_items_in_batch)
            self._end_observation()
            skips, ends = self.accelerator.scaler is not None, self.accelerator.sync_gradients
            self._finite.check(loss, self.state.global_step, skips, ends_step=ends)
            return loss
        model.train()
        optimizer = cast(AcceleratedOptimizer, self.optimizer)
        optimizer.train()
        inputs = self._prepare_inputs(inputs)
        step, self._step = self._step or MeasuringStep(model, optimizer, self.accelerator, self.args), None
        with step.local_gradients(), self.compute_loss_context_manager():
            # Forward of student and teacher; the losses' graph is cut from the student's at its outputs.
            outputs, teacher, items = self._forward(model, inputs)
            outputs, cut = cut_outputs(outputs)
            losses = self._training_losses(outputs, teacher, items, inputs, num_items_in_batch)
            del teacher  # a language model's logits are large, and only the losses need them
            # Two backward passes: one of each loss, from the cut through the student.
            samples = self.args.gram_estimator == "unbiased"
            item_shares = _item_shares(items.counts, num_items_in_batch) if samples else None
            step.backward(cut, losses, item_shares)
        every = self.args.torch_empty_cache_steps
        if every is not None and self.state.global_step % every == 0:  # as in an ordinary step
            clear_device_cache()
        self._end_observation()
        if not self.accelerator.sync_gradients:
            self._step = step  # not before, as `auto_find_batch_size` starts the step again where memory ran out
            return torch.zeros((), device=self.args.device)
        # All-reduce, Gram matrix, λ, and the combined gradient in `.grad`.
        self._step_record.gram = step.finish(cast(LambdaState, self.balancer.state))
        self._step_record.add(step.losses, ends_step=True)
        self._finite.check(step.losses, self.state.global_step, skips=True)
        if self.accelerator.scaler is None:  # which looks for such gradients itself, and lowers its scale
            self._finite_gram.check(torch.stack(self._step_record.gram), self.state.global_step, True, "Gram matrix")
        return torch.dot(step.losses[:2], torch.stack(self.loss_weights))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, SequenceClassifierOutput]:
        """The weighted loss that non-measuring steps descend and evaluation reports, with the weights in force.

        In evaluation, several KD losses are summed as `kd_losses` says, also if `lambda_scope` is "loss".
        """
        outputs, teacher, items = self._forward(model, inputs)
        if model.training:
            losses = self._training_losses(outputs, teacher, items, inputs, num_items_in_batch)
            self._step_record.add(losses.stacked().detach(), ends_step=self.accelerator.sync_gradients)
        else:
            losses = self._evaluation_losses(outputs, teacher, items, inputs)
            if is_multi_label(self._student):
                outputs["logits"] = outputs.logits[..., 1]  # predictions are Transformers'
        loss = torch.dot(losses.stacked()[:2], torch.stack(self.loss_weights))
        return (loss, outputs) if return_outputs else loss

    def _forward(
        self, model: nn.Module, inputs: dict[str, Any]
    ) -> tuple[SequenceClassifierOutput, TeacherBatch, ItemLabels]:
        """The student's outputs for a batch, with logits of items; the teacher's; and the labels of each loss."""
        accepted = {name: value for name, value in inputs.items() if name in self._student_inputs}
        outputs: Any = as_model_output(model(**accepted, **forward_flags(self._objective.needs)), model, "student")
        outputs["logits"] = logits_of_items(outputs.logits, inputs)
        teacher = self._teacher_outputs(inputs)
        return outputs, teacher, self._objective.items(outputs, teacher, inputs)

    def _training_losses(
        self,
        outputs: SequenceClassifierOutput,
        teacher: TeacherBatch,
        items: ItemLabels,
        inputs: dict[str, Any],
        num_items: Tensor | int | None,
    ) -> BatchLosses:
        """The losses of a micro-batch, which the balancer sees and whose items it weighs; see `Objective.__call__`."""
        teacher, weights = self.balancer.observe(outputs.logits.detach(), teacher, items, inputs.get(EXAMPLE_ROW))
        return self._objective(outputs, teacher, inputs, items, num_items, self.balancer.kd_weights, weights)

    def _evaluation_losses(
        self, outputs: SequenceClassifierOutput, teacher: TeacherBatch, items: ItemLabels, inputs: dict[str, Any]
    ) -> BatchLosses:
        """The losses of a batch, also for the record; divided by its items, since the Trainer counts only labels.

        Weights of `KDSplit` change from one evaluation to the next, so those of `kd_losses` are used.
        """
        teacher = teacher.mixed(self.balancer.evaluation_weights)
        losses = self._objective(outputs, teacher, inputs, items)
        if self._evaluation_record is not None:
            gather, values = self.accelerator.gather_for_metrics, losses.stacked().detach()
            self._evaluation_record.add(outputs.logits, teacher.logits, items.kd, values, items.counts, gather)
        return losses

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The micro-batches of an optimizer step, and `[2]`: what sums over the items of both losses are divided by.

        The Trainer's own number counts the items that have a label, which is the task loss's alone.
        """
        if self.has_ended:
            return [], None
        # Not by the Trainer's method: it also counts labels over the ranks, and only on ranks whose batch has some.
        student = self._student
        batches = [training_batch(batch, student) for batch in itertools.islice(epoch_iterator, num_batches)]
        if not batches:
            return batches, None
        counts = torch.stack([item_labels(targets(batch)).counts for batch in batches]).sum(0).to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            # DDP's average divides by the number of ranks once more.
            counts = self.accelerator.reduce(counts, "sum") / self.accelerator.num_processes
        return batches, counts

    # A run

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer.train` does; after an interruption, no half-finished step and no signal handler remain.

        Raises:
            KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM ended training, and a checkpoint is saved.
        """
        if self.args.device.type == "cpu":
            keep_freed_memory()
        allow_two_backwards()
        if self.args.cache_teacher:
            self.cache_teacher()
        output_dir = str(self.args.output_dir)
        self.train_dataset = self._remembered.begin(self.train_dataset, resume_from_checkpoint, output_dir)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self._begin_steps()
            self.balancer.drop_counts()

    def cache_teacher(self) -> bool:
        """Add the teacher's outputs to the examples of training and evaluation: see `CacheFormat`.

        Outputs that were cached before are read; the others are computed in the precision of the run, by all ranks
        together, which must all call this. Examples that cannot be cached stay as they are, with a warning.

        Returns:
            Whether all examples have them now, so that the teacher waits in the CPU's memory for other examples.
        """
        several = isinstance(self.eval_dataset, dict)
        evaluated = self.eval_dataset if several else {"": self.eval_dataset}
        self.train_dataset, *cached = self._teacher_outputs.add_to(
            [self.train_dataset, *evaluated.values()],
            folder=self.args.teacher_cache_dir,
            batch_size=self.args.eval_batch_size,
            collate=self.data_collator,
            prepare=self._prepare_inputs,
            progress=not self.args.disable_tqdm,
        )
        self.eval_dataset = dict(zip(evaluated, cached, strict=True)) if several else cached[0]
        return self._teacher_outputs.are_all_cached(self._datasets())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the losses, λ and the gradients to the logs of training steps."""
        if "learning_rate" in logs:
            logs |= self._step_record.take(self.loss_weights, partial(self.accelerator.reduce, reduction="mean"))
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
        record = EvaluationRecord(self._objective.names)
        student_config = cast(Any, self._student).config
        if ignore_keys is None:
            # The Trainer's own default: a decoder's keys and values, whose name depends on the version.
            ignore_keys = getattr(student_config, "keys_to_ignore_at_inference", ["past_key_values", "cache"])
        # Outputs that only the losses asked for would be gathered over a whole evaluation.
        asked = [name for name in self._objective.needs if not gives(student_config, name)]
        stacked = ["logits"] if answers_questions(self._student) else []  # predictions are Transformers'
        ignore_keys = [*ignore_keys, PROJECTED, *asked, *stacked]
        loop = super().evaluation_loop
        with changed(self, _evaluation_record=record):
            output = loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        own = {f"{metric_key_prefix}_{name}": value for name, value in record.metrics().items()}
        return output._replace(metrics=(output.metrics or {}) | own)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """As the Trainer's; an example without labels has the KD loss alone, and no labels are returned.

        Without labels, the student runs alone, on the columns that it takes, if a loss cannot do without them, or if
        what the teacher needs is missing.
        """
        has_labels = all(inputs.get(name) is not None for name in self.label_names)
        if has_labels:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        needs_labels = self.compute_loss_func is not None or is_causal(self._student)
        if needs_labels or not self._teacher_outputs.can_be_had(inputs):
            inputs = {name: value for name, value in inputs.items() if name in self._student_inputs}
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = training_batch(inputs, self._student)
        with changed(self, label_names=["labels"]):
            loss, logits, _ = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        return loss, logits, None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student; checkpoints also get its projections, and the predictions that `trust` judges by."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        checkpoint = output_dir if _internal_call else None  # None if `push_to_hub` saves, too
        with contextlib.nullcontext() if checkpoint else left_out(model):
            super().save_model(output_dir, _internal_call)
        if checkpoint:
            self._remembered.save(Path(checkpoint), self.args)
        if self._pushes_saved and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def create_model_card(self, language: str | None = None, **facts: Any) -> None:
        """Write the student's model card and the figure of λ into its folder; arguments as for `Trainer`'s own.

        The card's task is that of the student's class, unless `tasks` names another.
        """
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            plot_lambda(self.state.log_history, folder / FIGURE)
            members = [] if self.teacher is None else members_of(self.teacher)
            teachers = [name for member in members if (name := getattr(member, "name_or_path", None))]
            model_card(facts_of_trainer(self, teachers, language=language, **facts)).save(folder / CARD)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """As the Trainer's, but of the folder's files those alone that `hf-kd-lambda push` pushes.

        Raises:
            ValueError: the folder has no weights, or the repository is public and the student shall be private.
        """
        token = token or self.args.hub_token
        if private is not None:  # transformers 5.17's `init_hf_repo` does not take it
            self.args.hub_private_repo = private
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        self._refuse_public_repository(token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**{"model_name": str(self.hub_model_id).split("/")[-1], **card})
        folder = str(self.args.output_dir)
        files = files_to_push(Path(folder))
        if not matching(files, NEEDED["weights"]):
            raise ValueError(
                f"{folder!r} has no weights to push, as {' or '.join(NEEDED['weights'])}: with FSDP2, set "
                "state_dict_type to FULL_STATE_DICT in fsdp_config."
            )
        return upload_folder(
            repo_id=str(self.hub_model_id),
            folder_path=folder,
            allow_patterns=files,
            delete_patterns=list(LEFT_BY_OTHERS),
            commit_message=commit_message,
            revision=revision or self.args.hub_revision,
            token=token,
            run_as_future=cast(Any, not blocking),
        )

    def _refuse_public_repository(self, token: str | None) -> None:
        """Refuse a repository that is public if the student shall be private."""
        if self.args.hub_private_repo and self.is_world_process_zero():
            require_private(str(self.hub_model_id), token)

    # What is known of a run

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The teacher; None where the examples bring its logits. Setting None lets go of it."""
        return self._teacher_outputs.teacher

    @teacher.setter
    def teacher(self, teacher: None) -> None:
        self._teacher_outputs.teacher = teacher

    @property
    def _student(self) -> nn.Module:
        """The student without the wrapper of `torch.compile`, which hides its kind: with FSDP2, `model` has it."""
        return cast(nn.Module, getattr(self.model, "_orig_mod", self.model))

    @property
    def lambda_state(self) -> LambdaState | None:
        """λ's state; None for a rule that measures nothing."""
        return self.balancer.state

    @property
    def predictions_size(self) -> int:
        """Bytes that a checkpoint has of the student's predictions, by which `trust` judges; at most."""
        return self._remembered.size_in_checkpoint(self.train_dataset, self.args.cache_teacher)

    @property
    def loss_weights(self) -> tuple[Tensor, Tensor]:
        """(w_task, w_kd) in force, scalar tensors on the training device, from λ's geometric mean over layers."""
        return self.balancer.weights(self.state.global_step / max(self.state.max_steps, 1))

    def _end_observation(self) -> None:
        """After the backward pass of a step's last micro-batch, hand what was counted in it to votes or trust."""
        if self.accelerator.sync_gradients:
            self.balancer.end_step(partial(self.accelerator.reduce, reduction="sum"))

    def _datasets(self) -> list[Any]:
        evaluated = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        return [dataset for dataset in (self.train_dataset, *evaluated) if dataset is not None]

    def _begin_steps(self) -> None:
        self._step = None
        self._finite, self._finite_gram = FiniteLosses(), FiniteLosses()


def _item_shares(counts: Tensor, num_items: Tensor | int | None) -> Tensor:
    """`[2]`, the part of the step's items of both losses that a micro-batch has."""
    counts = counts.float()
    return counts if num_items is None else counts / torch.as_tensor(num_items).clamp(min=1)
