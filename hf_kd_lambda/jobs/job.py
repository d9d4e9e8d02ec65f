"""The whole job: data, teacher, student, distillation, and the comparison of what came out."""

import copy
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.data.selection import count_unlabelled, labelled
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.checks import (
    check_folders,
    check_label_smoothing,
    check_labels,
    check_settings,
    check_tokens,
)
from hf_kd_lambda.jobs.disk_space import check_space
from hf_kd_lambda.jobs.evaluation import classes_of, evaluate_model
from hf_kd_lambda.jobs.finetune import finetune
from hf_kd_lambda.jobs.hub import make_repository, push_student, repository_of
from hf_kd_lambda.jobs.identity import identity, settings_of, teacher_settings_of
from hf_kd_lambda.jobs.loading import ModelLoader
from hf_kd_lambda.jobs.lock import locked
from hf_kd_lambda.jobs.progress import stage
from hf_kd_lambda.jobs.report import card_facts, differing_texts, suspicious_examples, write_job_report
from hf_kd_lambda.jobs.resuming import load_finished, train_on
from hf_kd_lambda.jobs.run_folder import claim_folder, record_run
from hf_kd_lambda.jobs.trainer_checks import check_trainer
from hf_kd_lambda.losses.class_weights import WeightedTaskLoss
from hf_kd_lambda.models.adapters import add_adapters
from hf_kd_lambda.models.ensemble import members_of
from hf_kd_lambda.models.labels import names_of_numbers
from hf_kd_lambda.reports.agreement import teacher_agreement
from hf_kd_lambda.reports.label_quality import LabelQuality, quality_summary, write_quality
from hf_kd_lambda.reports.model_card import WITHOUT_LABEL
from hf_kd_lambda.reports.results import ModelReport, guessing_teacher_note
from hf_kd_lambda.reports.run_report import Differing
from hf_kd_lambda.tasks import TASKS
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.label_quality import can_judge, label_quality
from hf_kd_lambda.trainer.setup import class_weights
from hf_kd_lambda.trainer.strategy_checks import check_saving
from hf_kd_lambda.trainer.trainer import DistillationTrainer
from hf_kd_lambda.utils.log_keys import MAIN_METRIC
from hf_kd_lambda.utils.names import check_known
from hf_kd_lambda.utils.paths import check_path
from hf_kd_lambda.utils.run_files import CARD, QUALITY_FILE, REPORT, RESULTS

logger = logging.get_logger(__name__)


class DistillationJob:
    """One run of `hf-kd-lambda distill`: `check` refuses what cannot work, `run` does all of it.

    Args:
        models, data, config: as parsed from YAML and command line.

    Raises:
        ValueError: the data do not fit the settings.
    """

    def __init__(self, models: ModelArguments, data: DataArguments, config: DistillationConfig) -> None:
        self.models = models
        self.data_args = data
        check_known(data.problem, TASKS, "problem")
        check_settings(models, data, config)
        given = {"output_dir": str(config.output_dir), "teacher_dir": models.teacher_dir}
        for setting, path in (given | {"teacher_cache_dir": config.teacher_cache_dir}).items():
            check_path(setting, path)
        self.task = TASKS[data.problem]
        self.repository = repository_of(config)
        # The Trainer would push the whole folder, its teacher included.
        self.config = dataclasses.replace(cast(Any, config), push_to_hub=False)
        self.folder = Path(str(config.output_dir))
        self.teacher_folder = Path(models.teacher_dir or self.folder / "teacher")
        self.baseline_folder = self.folder / "without_kd"
        check_folders(self.folder, self.teacher_folder, self.baseline_folder)
        set_seed(config.seed)
        trained = [] if models.teacher_finetune else models.teachers
        names = [classes_of(teacher, models.trust_remote_code) or [] for teacher in trained]
        data.teacher_classes = names[0] if names else []
        with stage("reading the data") as reading, config.main_process_first(desc="loading the data"):
            loaded = self.task.load_data(data, config.seed if config.data_seed is None else config.data_seed)
            self.data = dataclasses.replace(loaded, label_names=names_of_numbers(loaded.label_names, names))
            reading.examples = sum(map(len, self.data.splits.values()))
        self.loader = ModelLoader(models, self.task, self.data, data.max_length)
        self.settings = settings_of(models, data, self.config)
        self.space: int | None = None  # bytes on the disk, once `check` has estimated them

    @cached_property
    def tokens(self) -> DatasetDict:
        """The encoded examples: the student's inputs, next to the teacher's own if the two differ."""
        with stage("preparing the examples") as preparing, self.config.main_process_first(desc="tokenising"):
            loader = self.loader
            tokens = self.task.encode(self.data, self.data_args, loader.student_processor, loader.own_processor)
            preparing.examples = sum(map(len, tokens.values()))
        return tokens

    @cached_property
    def teacher_tokens(self) -> DatasetDict:
        """The teacher's inputs alone."""
        own = [name for name in self.tokens["train"].column_names if name.startswith(TEACHER_PREFIX)]
        if not own:
            return self.tokens
        renamed = {name: name.removeprefix(TEACHER_PREFIX) for name in own}
        return self.tokens.select_columns([*own, "labels"]).rename_columns(renamed)

    @cached_property
    def student_settings(self) -> dict[str, Any]:
        """What decides the student, and what is reported: `claim_folder` compares the former."""
        return self._identity(self.settings, self.tokens["train"], self.tokens["validation"])

    @cached_property
    def teacher_settings(self) -> dict[str, Any]:
        """Everything that decides the fine-tuned teacher."""
        train, validation = (labelled(self.teacher_tokens[name]) for name in ("train", "validation"))
        return self._identity(teacher_settings_of(self.settings), train, validation)

    def _identity(self, settings: dict[str, Any], train: Dataset, validation: Dataset) -> dict[str, Any]:
        return identity(settings, self.config.world_size, self.data.label_names, train, validation)

    def check(self) -> None:
        """Refuse now what could only fail after hours of training: folders, models, labels, strategy.

        Raises:
            ValueError: names the setting and the fix.
            OSError: a checkpoint cannot be loaded.
            PushError: the Hub does not accept the student.
        """
        with locked("output_dir", self.folder):
            finished = self._claim_folders()
        with stage("checking models and settings"):
            self._check(finished)

    def _check(self, finished: bool) -> None:
        check_labels(self.models, self.config, self.tokens["train"])
        check_label_smoothing(self.models, self.config, self.tokens["train"])
        teacher = self.loader.teacher(new_head=self.models.teacher_finetune)
        student = self.load_student(teacher)
        for who, model, processor, tokens in (
            ("teacher", teacher, self.loader.teacher_processor, self.teacher_tokens),
            ("student", student, self.loader.student_processor, self.tokens),
        ):
            for member in members_of(model):
                check_tokens(who, processor, cast(PreTrainedModel, member), tokens["train"], self.data_args.max_length)
                for split in tokens:
                    self.task.check_inputs(who, cast(PreTrainedModel, member), processor, tokens[split])
        trainer = self.make_trainer(teacher, student)
        check_saving(trainer.accelerator, self.models.lora is not None)
        check_trainer(trainer)
        if not finished:
            self.space = check_space(self.folder, trainer)
        if self.repository is not None and PartialState().is_main_process:
            self.repository = make_repository(self.repository, self.config.hub_private_repo)
        PartialState().wait_for_everyone()

    def run(self) -> list[ModelReport]:
        """Do everything, from the teacher's fine-tuning to `results.json`.

        Returns:
            Reports of the teacher, of the student without KD where asked for, and of the student with KD.

        Raises:
            TrainingStoppedError: Ctrl-C or SIGTERM ended training; a checkpoint was saved.
            PushError: the student is finished, but not on the Hub.
            ValueError: another command uses the folder, or has used it since `check`.
        """
        with locked("output_dir", self.folder):
            return self._run()

    def _run(self) -> list[ModelReport]:
        finished = self._claim_folders()
        if self.config.should_save and not finished:
            record_run(self.folder, self.student_settings, finished=False)
        teacher = self.load_teacher()
        report, teacher_logits = self._evaluate("teacher", teacher, self.loader.teacher_processor, self.teacher_tokens)
        reports = [report]
        if guesses := guessing_teacher_note(reports, self.task.chance(self.data), self.settings):
            logger.warning(guesses)

        set_seed(self.config.seed)
        student = self.load_student(teacher)
        if self.models.student_without_kd:
            self.train_without_kd(copy.deepcopy(student))
            reports.append(self._evaluate_student("student without KD", self.baseline_folder, teacher_logits)[0])
        trainer = self.make_trainer(teacher, student)
        if trainer.args.cache_teacher:
            with stage("caching the teacher's outputs") as caching:
                caching.examples = len(self.tokens["train"]) + len(self.tokens["validation"])
                if trainer.cache_teacher():
                    trainer.teacher = teacher = None
        if finished:
            load_finished(trainer, self.loader.from_folder("output_dir", self.folder), self.folder)
        else:
            with stage("training the student"):
                train_on(trainer)
                trainer.save_model()
                trainer.save_state()
            if self.config.should_save:  # now, so that it is never trained again, whatever fails below
                record_run(self.folder, self.student_settings, finished=True)
        PartialState().wait_for_everyone()
        student_report, student_logits = self._evaluate_student("student with KD", self.folder, teacher_logits)
        reports.append(student_report)
        quality = self._judge_labels(trainer, bool(guesses))
        if self.config.should_save:
            differing = differing_texts(self.data, student_logits, teacher_logits)
            self._write_report(reports, trainer.state.log_history, differing, quality)
        if self.repository is not None and PartialState().is_main_process:
            config = self.config
            address = push_student(self.folder, self.repository, config.hub_private_repo, config.hub_revision)
            print(f"on the Hub: {address}")
        return reports

    def load_teacher(self) -> PreTrainedModel:
        """The teacher; with `teacher_finetune`, fine-tuned on the task unless that was done before."""
        if not self.models.teacher_finetune:
            return self.loader.teacher()
        with locked("teacher_dir", self.teacher_folder, wait=True):
            if claim_folder("teacher_dir", self.teacher_folder, self.teacher_settings):
                logger.warning(f"reusing the teacher in {self.teacher_folder}, fine-tuned with these settings")
            else:
                with stage("fine-tuning the teacher"):
                    self._finetune_teacher()
        return self.loader.from_folder("teacher_dir", self.teacher_folder)

    def load_student(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """The student before distillation, with adapters if `lora` is set: see `ModelLoader.student`."""
        student, lora = self.loader.student(teacher), cast(dict[str, Any] | None, self.models.lora)
        return student if lora is None else add_adapters(student, lora, self.data_args.problem)

    def train_without_kd(self, student: PreTrainedModel) -> None:
        """Train a student on the task loss alone, unless that was done before.

        All else is as in the distillation, but that the main metric, `score`, chooses its best checkpoint.
        """
        if not claim_folder("output_dir", self.baseline_folder, self.student_settings):
            args = self._plain_arguments(self.baseline_folder)
            with stage("training the student without the teacher"):
                self._finetune(student, args, self.tokens, self.loader.student_processor, self.student_settings)

    def make_trainer(
        self,
        teacher: PreTrainedModel | None,
        student: PreTrainedModel,
        config: DistillationConfig | None = None,
        train: Dataset | None = None,
        evaluated: Dataset | None = None,
    ) -> DistillationTrainer:
        """The trainer of this job; another configuration and other tokens may replace its own.

        Args:
            teacher, student: classifiers of the job's labels; no teacher where the tokens bring its logits.
            config, train, evaluated: see `DistillationTrainer`.
        """
        evaluated = self.tokens["validation"] if evaluated is None else evaluated
        return DistillationTrainer(
            student,
            config or self.config,
            teacher=teacher,
            train_dataset=self.tokens["train"] if train is None else train,
            eval_dataset=evaluated,
            data_collator=self.task.collator(self.loader.student_processor, self.loader.own_processor),
            processing_class=self.loader.student_processor,
            compute_metrics=self.task.metrics(self.data, evaluated),
            preprocess_logits_for_metrics=self.task.preprocess_logits,
        )

    def _claim_folders(self) -> bool:
        """Check that the job may write into its folders; whether its student is finished."""
        finished = claim_folder("output_dir", self.folder, self.student_settings, writes=(CARD, REPORT, RESULTS))
        if self.models.student_without_kd:
            claim_folder("output_dir", self.baseline_folder, self.student_settings)
        if self.models.teacher_finetune:
            claim_folder("teacher_dir", self.teacher_folder, self.teacher_settings)
        return finished

    def _finetune_teacher(self) -> None:
        set_seed(self.config.seed)  # else its new weights would depend on what was drawn before, by checks too
        teacher = self.loader.teacher(new_head=True)
        args = self._plain_arguments(
            self.teacher_folder,
            learning_rate=self.models.teacher_learning_rate,
            num_train_epochs=self.models.teacher_epochs,
            max_steps=-1,
        )
        self._finetune(teacher, args, self.teacher_tokens, self.loader.teacher_processor, self.teacher_settings)

    def _finetune(
        self,
        model: PreTrainedModel,
        args: DistillationConfig,
        tokens: DatasetDict,
        processor: Any,
        identity: dict[str, Any],
    ) -> None:
        """Train on the task loss alone, on the examples that have a label: see `finetune`."""
        tokens = DatasetDict({**tokens, "train": labelled(tokens["train"])})
        finetune(
            model,
            args,
            tokens,
            processor,
            collator=self.task.collator(processor, None),
            compute_metrics=self.task.metrics(self.data, tokens["validation"]),
            settings=identity,
            preprocess_logits=self.task.preprocess_logits,
            compute_loss=self._weighted_loss(model)
            or self.task.task_loss(self.data, self.config.label_smoothing_factor),
        )

    def _weighted_loss(self, model: PreTrainedModel) -> WeightedTaskLoss | None:
        """The task loss of a plain Trainer where classes have weights; None for the model's own."""
        weights = class_weights(self.config, model, self.data.num_labels, self.tokens["train"])
        return None if weights is None else WeightedTaskLoss(weights, self.config.label_smoothing_factor)

    def _evaluate(
        self, name: str, model: PreTrainedModel, processor: Any, tokens: DatasetDict
    ) -> tuple[ModelReport, Tensor]:
        """A model on the reported split: see `evaluate_model`."""
        split, args = tokens[self.data.report_split], self._plain_arguments(self.folder)
        with stage(f"evaluating the {name}") as evaluating:
            evaluating.examples = len(split)
            report, logits = evaluate_model(name, model, split, args, self.task, self.data, processor)
        examples = self.task.counts(self.data, tokens)[self.data.report_split]
        return dataclasses.replace(report, examples=examples), logits

    def _evaluate_student(self, name: str, folder: Path, teacher_logits: Tensor) -> tuple[ModelReport, Tensor]:
        # Loaded from disk: the report is about the files that a user gets.
        student = self.loader.from_folder("output_dir", folder)
        report, logits = self._evaluate(name, student, self.loader.student_processor, self.tokens)
        report.metrics["teacher_agreement"] = teacher_agreement(logits, teacher_logits)
        return report, logits

    def _judge_labels(self, trainer: DistillationTrainer, teacher_guesses: bool) -> LabelQuality | None:
        """How far the labels of the training examples can be trusted; None where it is not asked for or not known."""
        judges = self.models.label_quality != "none" and can_judge(trainer)
        if judges and teacher_guesses:
            logger.warning("labels are not judged: the teacher scores no better than a constant guess")
        if teacher_guesses or not judges:
            if self.config.should_save:
                (self.folder / QUALITY_FILE).unlink(missing_ok=True)  # of an earlier run
            return None
        train = self.data.splits["train"]
        with stage("judging the labels") as judging:
            judging.examples = len(train)
            quality = label_quality(trainer, cast(list[str], self.data.label_names))
        if self.config.should_save:
            shown = [name for name in ("text", "text_pair") if self.models.label_quality == "texts"]
            texts = {name: train[name][:] for name in shown if name in train.column_names}
            write_quality(self.folder / QUALITY_FILE, quality, {"row": self.data.train_rows, **texts})
        return quality

    def _write_report(
        self,
        reports: list[ModelReport],
        history: list[dict[str, float]],
        differing: list[Differing] | None,
        quality: LabelQuality | None,
    ) -> None:
        examples = self.task.counts(self.data, self.tokens)
        if unlabelled := count_unlabelled(self.data.splits["train"]):
            examples[WITHOUT_LABEL] = unlabelled
        card = card_facts(
            name=self.repository or self.folder.resolve().name,
            models=self.models,
            data=self.data_args,
            settings=self.settings,
            num_processes=self.config.world_size,
            reports=reports,
            log_history=history,
            chance=self.task.chance(self.data),
            examples=examples,
            loaded=self.data,
            label_quality=None if quality is None else quality_summary(quality, self.models.teacher_finetune),
        )
        write_job_report(
            self.folder,
            card,
            self.data_args,
            split=self.data.report_split,
            settings=self.settings,
            differing=differing,
            suspicious=[] if quality is None else suspicious_examples(self.data, quality),
        )

    def _plain_arguments(self, folder: Path, **settings: Any) -> DistillationConfig:
        """Arguments of a plain Trainer; only the distillation itself is reported to trackers."""
        plain: dict[str, Any] = {"report_to": "none", "remove_unused_columns": True, "prediction_loss_only": False}
        plain |= {"metric_for_best_model": MAIN_METRIC, "greater_is_better": True}
        return dataclasses.replace(cast(Any, self.config), output_dir=str(folder), **plain, **settings)
