"""The whole job: data, teacher, student, distillation, and the comparison of what came out."""

import copy
import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import transformers
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.columns import TEACHER_PREFIX
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.evaluate import evaluate_model
from hf_kd_lambda.jobs.finetune import finetune, train_on
from hf_kd_lambda.jobs.hub import make_repository, push_student, repository_of
from hf_kd_lambda.jobs.identity import EVALUATION, OPTIMISATION, digest
from hf_kd_lambda.jobs.report import facts_of_job
from hf_kd_lambda.jobs.run_folder import claim_folder, record_run
from hf_kd_lambda.models.adapters import add_adapters
from hf_kd_lambda.models.labels import warn_if_at_chance
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.reports.agreement import teacher_agreement
from hf_kd_lambda.reports.figure import plot_lambda
from hf_kd_lambda.reports.model_card import CARD, FIGURE, model_card, without_folders
from hf_kd_lambda.reports.results import ModelReport, results_table, write_results
from hf_kd_lambda.reports.summary import explain_lambda, lambda_summary
from hf_kd_lambda.tasks import TASKS
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.limits import check_saving
from hf_kd_lambda.trainer.trainer import DistillationTrainer
from hf_kd_lambda.utils.names import check_known
from hf_kd_lambda.utils.versions import versions

logger = logging.get_logger(__name__)

MAIN_METRIC = "score"


class DistillationJob:
    """One run of `scripts/distill.py`: `check` refuses what cannot work, `run` does all of it.

    Args:
        models, data, config: as parsed from YAML and command line.

    Raises:
        ValueError: the data do not fit the settings.
    """

    def __init__(self, models: ModelArguments, data: DataArguments, config: DistillationConfig) -> None:
        self.models = models
        self.data_args = data
        check_known(data.problem, TASKS, "problem")
        self.problem = TASKS[data.problem]
        self.repository = repository_of(config)
        # The Trainer would push the whole folder, its teacher included.
        self.config = dataclasses.replace(cast(Any, config), push_to_hub=False)
        self.folder = Path(str(config.output_dir))
        self.teacher_folder = Path(models.teacher_dir or self.folder / "teacher")
        self.baseline_folder = self.folder / "without_kd"
        set_seed(config.seed)
        with config.main_process_first(desc="loading the data"):
            self.data = self.problem.load_data(data, config.seed if config.data_seed is None else config.data_seed)
        self.compute_metrics = self.problem.metrics(self.data)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the student which comes out, but for the examples."""
        own = {field.name for field in dataclasses.fields(DistillationConfig)}
        own -= {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
        own -= {"cache_teacher", "teacher_cache_dir"}
        evaluation = EVALUATION if self.config.load_best_model_at_end else []
        config = {name: getattr(self.config, name) for name in sorted(own) + OPTIMISATION + evaluation}
        config["precision"] = self.config.autocast
        return {**dataclasses.asdict(self.models), **dataclasses.asdict(self.data_args), **config}

    @cached_property
    def teacher_processor(self) -> Any:
        """The teacher's tokenizer or image processor."""
        return self._load_processor("teacher")

    @cached_property
    def student_processor(self) -> Any:
        """The student's tokenizer or image processor: the teacher's, of its layers and of new models of texts."""
        return self.teacher_processor if self.models.student_layers is not None else self._load_processor("student")

    @cached_property
    def own_processor(self) -> Any | None:
        """The teacher's tokenizer or image processor, where it makes other inputs than the student's."""
        teacher, student = self.teacher_processor, self.student_processor
        shared = self.problem.share_inputs(teacher, student, self.data, self.data_args.max_length)
        return None if shared else self.teacher_processor

    @cached_property
    def tokens(self) -> DatasetDict:
        """The student's tokens, beside the teacher's own where the two tokenizers differ; or the images for both."""
        with self.config.main_process_first(desc="tokenising"):
            return self.problem.encode(self.data, self.data_args, self.student_processor, self.own_processor)

    @cached_property
    def teacher_tokens(self) -> DatasetDict:
        """The teacher's tokens alone."""
        columns = self.tokens["train"].column_names
        own = [name for name in columns if name.startswith(TEACHER_PREFIX)]
        if not own:
            return self.tokens
        renamed = {name: name.removeprefix(TEACHER_PREFIX) for name in own}
        return self.tokens.select_columns([*own, "labels"]).rename_columns(renamed)

    @cached_property
    def student_settings(self) -> dict[str, Any]:
        """Everything that decides the student, by which its folder is claimed."""
        others = {"num_processes": self.config.world_size, "examples": digest(self.tokens["train"])}
        return self.settings | others

    @cached_property
    def teacher_settings(self) -> dict[str, Any]:
        """Everything that decides the fine-tuned teacher."""
        of_student = ("learning_rate", "num_train_epochs", "max_steps")
        own = ["teacher", "teacher_architecture", "teacher_epochs", "teacher_learning_rate"]
        names = [*own, "augment", *OPTIMISATION]
        settings = {name: self.settings[name] for name in names if name not in of_student}
        return settings | {"label_names": self.data.label_names, "examples": digest(self.teacher_tokens["train"])}

    def check(self) -> None:
        """Refuse now what could only fail after hours of training: folders, models, labels, strategy.

        Raises:
            ValueError: names the setting and the fix.
            OSError: a checkpoint cannot be loaded.
            PushError: the Hub does not let the student in.
        """
        if self.teacher_folder.resolve() == self.folder.resolve():
            raise ValueError(f"teacher_dir={str(self.teacher_folder)!r} is output_dir, too: choose another.")
        if self.data_args.augment and self.config.dataloader_persistent_workers:
            raise ValueError(
                "dataloader_persistent_workers=True: workers that persist do not learn of the next epoch, and would "
                f"repeat the first one's augment={self.data_args.augment}: leave it out."
            )
        if self.config.resume_from_checkpoint is not None:
            raise ValueError(
                f"resume_from_checkpoint={self.config.resume_from_checkpoint!r}: a run goes on from the last "
                "checkpoint in its output_dir by itself: leave it out."
            )
        claim_folder("output_dir", self.folder, self.student_settings)
        if self.models.student_without_kd:
            claim_folder("output_dir", self.baseline_folder, self.student_settings)
        teacher = self._begin("teacher", new_head=self.models.teacher_finetune)
        if self.models.teacher_finetune:
            claim_folder("teacher_dir", self.teacher_folder, self.teacher_settings)
        student = self.load_student(teacher)
        for split in self.tokens:
            self.problem.check_inputs("teacher", teacher, self.teacher_processor, self.teacher_tokens[split])
            self.problem.check_inputs("student", student, self.student_processor, self.tokens[split])
        check_saving(self.make_trainer(teacher, student).accelerator)
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
        """
        if self.config.should_save:
            record_run(self.folder, self.student_settings, finished=False)
        teacher = self.load_teacher()
        report, teacher_logits = self._evaluate("teacher", teacher, self.teacher_processor, self.teacher_tokens)
        self._warn_if_at_chance(report)
        reports = [report]

        set_seed(self.config.seed)
        student = self.load_student(teacher)
        if self.models.student_without_kd:
            self.train_without_kd(copy.deepcopy(student))
            reports.append(self._evaluate_student("student without KD", self.baseline_folder, teacher_logits))
        trainer = self.make_trainer(teacher, student)
        if trainer.args.cache_teacher and trainer.cache_teacher():
            trainer.teacher = teacher = None
        train_on(trainer)
        trainer.save_model()
        trainer.save_state()
        PartialState().wait_for_everyone()
        reports.append(self._evaluate_student("student with KD", self.folder, teacher_logits))
        if self.config.should_save:
            self._write_report(reports, trainer)
            record_run(self.folder, self.student_settings, finished=True)
        if self.repository is not None and PartialState().is_main_process:
            config = self.config
            address = push_student(self.folder, self.repository, config.hub_private_repo, config.hub_revision)
            print(f"on the Hub: {address}")
        return reports

    def load_teacher(self) -> PreTrainedModel:
        """The teacher, where `teacher_finetune` asks for it fine-tuned on the task, unless that was done before."""
        if not self.models.teacher_finetune:
            return self._begin("teacher")
        if claim_folder("teacher_dir", self.teacher_folder, self.teacher_settings):
            logger.warning(f"reusing the teacher in {self.teacher_folder}, which was fine-tuned with these settings")
        else:
            if self.models.teacher_architecture is not None:
                set_seed(self.config.seed)  # else its weights would depend on what was drawn before
            finetune(
                self._begin("teacher", new_head=True),
                self._plain_arguments(
                    self.teacher_folder,
                    learning_rate=self.models.teacher_learning_rate,
                    num_train_epochs=self.models.teacher_epochs,
                    max_steps=-1,
                ),
                self.teacher_tokens,
                self.teacher_processor,
                self.problem.collator(self.teacher_processor, None),
                self.compute_metrics,
                self.teacher_settings,
                self.problem.preprocess_logits,
            )
        return self._load_model(str(self.teacher_folder))

    def load_student(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """The student checkpoint, a student of the teacher's layers or a new one; the seed draws what is new in it.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: the checkpoint is for other labels, the teacher has no such layers, or there is no such model.
        """
        layers, lora = self.models.student_layers, cast(dict[str, Any] | None, self.models.lora)
        student = self._begin("student", teacher=teacher) if layers is None else student_from_layers(teacher, layers)
        return student if lora is None else add_adapters(student, lora, self.data_args.problem)

    def train_without_kd(self, student: PreTrainedModel) -> None:
        """Train a student on the task loss alone, in all else like the distillation, unless that was done before."""
        if not claim_folder("output_dir", self.baseline_folder, self.student_settings):
            finetune(
                student,
                self._plain_arguments(self.baseline_folder),
                self.tokens,
                self.student_processor,
                self.problem.collator(self.student_processor, None),
                self.compute_metrics,
                self.student_settings,
                self.problem.preprocess_logits,
            )

    def make_trainer(
        self,
        teacher: PreTrainedModel | None,
        student: PreTrainedModel,
        config: DistillationConfig | None = None,
        train: Dataset | None = None,
        evaluated: Dataset | None = None,
    ) -> DistillationTrainer:
        """The trainer of this job; another configuration and other tokens may stand in for its own.

        Args:
            teacher, student: classifiers of the job's labels; no teacher where the tokens bring its logits.
            config, train, evaluated: see `DistillationTrainer`.
        """
        return DistillationTrainer(
            student,
            config or self.config,
            teacher=teacher,
            train_dataset=self.tokens["train"] if train is None else train,
            eval_dataset=self.tokens["validation"] if evaluated is None else evaluated,
            data_collator=self.problem.collator(self.student_processor, self.own_processor),
            processing_class=self.student_processor,
            compute_metrics=self.compute_metrics,
            preprocess_logits_for_metrics=self.problem.preprocess_logits,
        )

    def _evaluate(
        self, name: str, model: PreTrainedModel, processor: Any, tokens: DatasetDict
    ) -> tuple[ModelReport, Tensor]:
        """A model on the reported split: see `evaluate_model`."""
        split, args = tokens[self.data.report_split], self._plain_arguments(self.folder)
        collator = self.problem.collator(processor, None)
        return evaluate_model(name, model, split, args, collator, self.compute_metrics, self.problem.preprocess_logits)

    def _evaluate_student(self, name: str, folder: Path, teacher_logits: Tensor) -> ModelReport:
        # Loaded from disk: what is reported is what its user will have.
        student = self.problem.auto_class.from_pretrained(folder, trust_remote_code=self.models.trust_remote_code)
        report, logits = self._evaluate(name, student, self.student_processor, self.tokens)
        report.metrics["teacher_agreement"] = teacher_agreement(logits, teacher_logits)
        return report

    def _write_report(self, reports: list[ModelReport], trainer: DistillationTrainer) -> None:
        history = trainer.state.log_history
        figure = plot_lambda(history, self.folder / FIGURE)
        model_card(facts_of_job(self, MAIN_METRIC, reports, history)).save(self.folder / CARD)
        write_results(
            self.folder / "results.json",
            reports,
            MAIN_METRIC,
            figure,
            {
                "task": self.data_args.task,
                "split": self.data.report_split,
                "examples": {name: len(split) for name, split in self.tokens.items()},
                "lambda": lambda_summary(history),
                "settings": {name: without_folders(value) for name, value in self.settings.items()},
                "versions": versions(),
            },
        )
        print(f"\nOn the {self.data.report_split} split:\n{results_table(reports, MAIN_METRIC)}")
        print(f"\n{explain_lambda(history)}")
        print(f"\nstudent: {self.folder}\nmodel card: {self.folder / CARD}")
        print(f"results: {self.folder / 'results.json'}\nfigure of λ: {figure}")

    def _warn_if_at_chance(self, teacher: ModelReport) -> None:
        metric, chance = self.problem.chance(self.data)
        warn_if_at_chance(teacher.metrics[metric], chance)

    def _plain_arguments(self, folder: Path, **settings: Any) -> DistillationConfig:
        """Arguments of a plain Trainer beside the distillation's, which alone is reported and pushed."""
        beside = {"report_to": "none", "push_to_hub": False}
        beside |= {"metric_for_best_model": MAIN_METRIC, "greater_is_better": True}
        return dataclasses.replace(cast(Any, self.config), output_dir=str(folder), **beside, **settings)

    def _load_processor(self, who: str) -> Any:
        """Of teacher or student, as their settings name them."""
        setting, checkpoint = f"{who}_architecture", getattr(self.models, who)
        if checkpoint is None:
            teachers = self.teacher_processor if who == "student" else None
            return self.problem.new_processor(setting, getattr(self.models, setting), self.data, teachers)
        return self.problem.load_processor(checkpoint, self.models.trust_remote_code)

    def _begin(self, who: str, new_head: bool = False, teacher: PreTrainedModel | None = None) -> PreTrainedModel:
        """Teacher or student as its training begins, as its settings name it; a student beside its teacher."""
        setting, checkpoint = f"{who}_architecture", getattr(self.models, who)
        if checkpoint is None:
            architecture, processor = getattr(self.models, setting), getattr(self, f"{who}_processor")
            return self.problem.new_model(setting, architecture, self.data, processor, teacher)
        return self._load_model(checkpoint, new_head)

    def _load_model(self, checkpoint: str, new_head: bool = False) -> PreTrainedModel:
        return self.problem.load_model(checkpoint, self.data, self.models.trust_remote_code, new_head)
