"""The runs of a comparison: a teacher once for each task, a student for each run."""

import copy
import dataclasses
import math
import subprocess
import tempfile
import time
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from hf_kd_lambda.data.columns import ADDED_COLUMNS, TEACHER_LOGITS, TEACHER_OUTPUTS, token_counts
from hf_kd_lambda.data.selection import count_unlabelled
from hf_kd_lambda.jobs.identity import content, digest
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.resuming import train_on
from hf_kd_lambda.reports.sampling_error import standard_error
from hf_kd_lambda.studies.comparison.plan import GLUE, Comparison
from hf_kd_lambda.studies.comparison.regimes import (
    LEARNED_BY_TEACHER,
    NEEDS_CLASSES,
    REGIMES,
    Supervision,
    clean,
    region,
)
from hf_kd_lambda.studies.comparison.run_results import Cell, Run
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.trainer import DistillationTrainer
from hf_kd_lambda.utils.hardware import hardware
from hf_kd_lambda.utils.log_keys import TIMES
from hf_kd_lambda.utils.versions import versions

LOGGED = [
    *("step", "lambda", "kd_weight", "task_loss", "kd_loss"),
    *("grad_norm_task", "grad_norm_kd", "grad_cosine", "lambda_conflict", "odds", "label_reliability"),
    "teacher_reliability",
]


def _is_logged(name: str) -> bool:
    return name in LOGGED or name.startswith("kd_loss/")


class CellSupervision(NamedTuple):
    """What the student of a cell learns from."""

    teacher: PreTrainedModel
    train: Dataset
    """The training examples as the regime has them, with the teacher's logits."""
    score: float
    """The teacher's, on the reported split."""


class TaskRuns:
    """A task with its teacher and the teacher's logits; both are made once, for all runs.

    Args:
        comparison: the comparison with this task.
        task: its name there.

    Raises:
        ValueError: see `DistillationJob`, a regime does not fit the task, or the teacher's logits cannot be cached.
    """

    def __init__(self, comparison: Comparison, task: str) -> None:
        self.comparison = comparison
        self.task = task
        self.job = DistillationJob(*comparison.parse(task))
        self._unused_job = copy.copy(self.job)  # in which no property is cached
        unlabelled = count_unlabelled(self.job.data.splits["train"])
        for regime in dict.fromkeys(cell.regime for cell in comparison.cells() if cell.task == task):
            if regime in NEEDS_CLASSES and self.job.data.num_labels == 1:
                raise ValueError(f"{task}: {regime} needs classes, but the task is a regression: add it to `skipped`.")
            if regime != clean.__name__ and unlabelled:
                raise ValueError(
                    f"{task}: {regime} needs one label for each example, but {unlabelled} of the training examples "
                    "have none: add labels, delete these examples, or add it to `skipped`."
                )
            if regime == region.__name__ and len({*token_counts(self.job.tokens["train"])}) == 1:
                raise ValueError(
                    f"{task}: {regime} needs texts of different lengths, but all training examples have the same "
                    "length: add it to `skipped`."
                )

    @cached_property
    def _digests(self) -> dict[str, Any]:
        """Of examples and models, so that runs on other ones are not joined with these."""
        job = self.job
        examples = {f"{split} examples": digest(job.tokens[split]) for split in ("train", job.data.report_split)}
        return examples | {f"content of {who}": content(job.settings[who]) for who in ("teacher", "student")}

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """Where it is fine-tuned: on the labels as the task has them, before a regime changes them."""
        return self.job.load_teacher()

    @cached_property
    def examples(self) -> tuple[Dataset, Dataset]:
        """Tokens, labels and teacher logits of the training split and of the reported one."""
        return self._with_logits(self.job, self.teacher)

    @cached_property
    def teacher_score(self) -> float:
        """On the reported split."""
        return self._score(self.examples[1])

    def _score(self, evaluated: Dataset) -> float:
        """The score of the teacher whose logits the reported split has."""
        labels, logits = _supervision(evaluated)
        return self.job.task.metrics(self.job.data, evaluated)(EvalPrediction(logits, labels))["score"]

    def supervision(self, cell: Cell) -> CellSupervision:
        """The teacher of a cell and the training examples as its regime has them."""
        train = in_regime(self.examples[0], cell)
        if cell.regime not in LEARNED_BY_TEACHER:
            return CellSupervision(self.teacher, train, self.teacher_score)
        folder = self.job.teacher_folder
        inputs = train.select_columns([name for name in train.column_names if name not in ADDED_COLUMNS])
        job = copy.copy(self._unused_job)
        job.tokens = DatasetDict({**self.job.tokens, "train": inputs})
        job.teacher_folder = folder.with_name(f"{folder.name}_{cell.regime}_{cell.seed}")
        teacher = job.load_teacher()
        taught, evaluated = self._with_logits(job, teacher)
        return CellSupervision(teacher, taught, self._score(evaluated))

    def _with_logits(self, job: DistillationJob, teacher: PreTrainedModel) -> tuple[Dataset, Dataset]:
        """The training split of a job and the reported one, with a teacher's logits."""
        # Only logits are cached here, even if runs also need other outputs of the teacher.
        config = dataclasses.replace(cast(Any, job.config), kd_losses=None)
        evaluated = job.tokens[job.data.report_split]
        trainer = job.make_trainer(teacher, job.load_student(teacher), config, evaluated=evaluated)
        if not trainer.cache_teacher():
            raise ValueError(
                f"cache_teacher: the logits of {self.task}'s teacher cannot be cached: see the warning for the reason."
            )
        return _with_one_teacher(trainer.train_dataset), _with_one_teacher(trainer.eval_dataset)

    def run(self, cell: Cell) -> Run:
        """Train the student of a cell and score it.

        Raises:
            TrainingStoppedError: Ctrl-C or SIGTERM ended training.
            ValueError: the score is not finite.
        """
        supervision = self.supervision(cell)
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.trainer(cell, supervision, folder)
            remembered = trainer.compute_metrics = RememberedMetrics(trainer.compute_metrics)
            curve = RunCurve()
            trainer.add_callback(curve)
            trainer.remove_callback(PrinterCallback)  # the run's record has all logs
            train_on(trainer)
            if curve.points[-1]["step"] < trainer.state.global_step:
                trainer.evaluate()
        steps = [entry for entry in trainer.state.log_history if "lambda" in entry]
        last = curve.points[-1]
        if not math.isfinite(last["score"]):
            raise ValueError(f"the student's score is {last['score']}.")
        return dataclasses.replace(
            self.begun(cell),
            score=last["score"],
            metrics=curve.metrics,
            agreement=last["agreement"],
            steps=int(last["step"]),
            seconds=last["seconds"],
            evaluations=curve.points,
            log=[{name: value for name, value in entry.items() if _is_logged(name)} for entry in steps],
            teacher_score=supervision.score,
            examples=len(self.examples[1]),
            standard_error=remembered.standard_error(),
        )

    def trainer(self, cell: Cell, supervision: CellSupervision, folder: str) -> DistillationTrainer:
        """The trainer of a cell, before its training.

        Args:
            cell: a cell of this task.
            supervision: of this cell.
            folder: its `output_dir`.
        """
        config = dataclasses.replace(cast(Any, self.config(cell)), output_dir=folder)
        supervising, train, _ = supervision
        set_seed(cell.seed)
        student = self.job.load_student(supervising)
        losses = config.kd_losses_for(self.job.data.num_labels).values()
        teacher = copy.deepcopy(supervising) if any(loss.needs for loss in losses) else None  # it may get hooks
        return self.job.make_trainer(teacher, student, config, train, self.examples[1])

    def config(self, cell: Cell) -> DistillationConfig:
        """How the student of a cell is trained."""
        _, _, config = self.comparison.parse(cell.task, cell.regime, cell.rule)
        return dataclasses.replace(cast(Any, config), seed=cell.seed)

    def begun(self, cell: Cell) -> Run:
        """The record of a run before training."""
        config = self.config(cell)
        settings = {name: getattr(config, name, value) for name, value in self.job.settings.items()}
        del settings["teacher_dir"]
        if self.comparison.glue is not None and settings["dataset"] == self.comparison.glue:
            settings["dataset"] = GLUE  # independent of the folder
        settings |= {"precision": config.autocast, "evaluations": self.comparison.evaluations}
        settings["logs"] = self.comparison.logs
        settings |= self._digests
        if "accelerator_config" in settings:
            settings["accelerator_config"] = config.accelerator_config.to_dict()
        return Run(
            **cell._asdict(),
            rule_parameters={"lambda_rule": config.lambda_rule, **self.comparison.rules[cell.rule]},
            settings=settings | {"num_processes": config.world_size},
            versions=versions(),
            commit=commit(),
            hardware=hardware(config.use_cpu),
        )


class RememberedMetrics:
    """Metrics that keep the last predictions, of which a standard error is computed.

    Args:
        compute: the metrics.
    """

    def __init__(self, compute: Any) -> None:
        self.compute = compute
        self._last: EvalPrediction | None = None

    def __call__(self, evaluation: EvalPrediction) -> dict[str, float]:
        """The metrics of an evaluation."""
        self._last = evaluation
        return self.compute(evaluation)

    def standard_error(self) -> float | None:
        """Standard error of the score in the last evaluation, see `standard_error`."""
        if self._last is None:
            return None
        return standard_error(self.compute, self._last.predictions, self._last.label_ids)


class RunCurve(TrainerCallback):
    """The evaluations of a run, by step and by seconds of training.

    Attributes:
        points: `step`, `seconds`, `score` and `agreement` of each evaluation.
        metrics: metrics of the last evaluation.
    """

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.metrics: dict[str, float] = {}
        self._start = self._evaluating = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Record the score, and exclude the evaluation's time."""
        self._evaluating += metrics["eval_runtime"]
        values = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        self.points.append(
            {
                "step": state.global_step,
                "seconds": time.perf_counter() - self._start - self._evaluating,
                "score": values["score"],
                "agreement": values["teacher_agreement"],
            }
        )
        self.metrics = {name: value for name, value in values.items() if not name.endswith(TIMES)}


def in_regime(train: Dataset, cell: Cell) -> Dataset:
    """The training examples in the regime of a cell: the same for all rules with the same seed."""
    if cell.regime == clean.__name__:
        return train
    labels, logits = _supervision(train)
    given = Supervision(np.arange(len(train)), labels, logits, np.array(token_counts(train)))
    regime = REGIMES[cell.regime](given, np.random.default_rng(cell.seed))
    examples = train.select(regime.rows).remove_columns(["labels", TEACHER_LOGITS])
    return examples.add_column("labels", regime.labels).add_column(TEACHER_LOGITS, list(regime.teacher_logits))


def _with_one_teacher(examples: Dataset) -> Dataset:
    """Without the logits of each of several teachers: regimes change their mean."""
    return examples.remove_columns([name for name in examples.column_names if name == TEACHER_OUTPUTS])


def _supervision(examples: Dataset) -> tuple[np.ndarray, np.ndarray]:
    columns = examples.select_columns(["labels", TEACHER_LOGITS]).with_format("numpy")[:]
    return columns["labels"], columns[TEACHER_LOGITS]


@cache
def commit() -> str | None:
    """Commit of the repository of this package, with a `+` if files differ from it; None outside of one."""
    git, own = ["git", "-C", str(Path(__file__).parent)], Path(__file__).name
    try:
        # Else an installed package would have the commit of the project around its environment.
        subprocess.run([*git, "ls-files", "--error-unmatch", own], check=True, capture_output=True)
        name = subprocess.run([*git, "describe", "--always", "--dirty=+"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip()
