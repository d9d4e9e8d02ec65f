"""How good, how large and how fast models are on a split, and how far they agree with a teacher."""

import copy
import dataclasses
import tempfile
from collections.abc import Mapping
from typing import Any, cast

from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoConfig, EvalPrediction, PreTrainedModel, Trainer, TrainingArguments
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments, EvaluatedData
from hf_kd_lambda.data.bundled import resolve_checkpoint
from hf_kd_lambda.data.columns import LABELS, TEACHER_PREFIX, accepted_inputs
from hf_kd_lambda.data.selection import count_unlabelled
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.reports.agreement import teacher_agreement
from hf_kd_lambda.reports.class_scores import class_scores
from hf_kd_lambda.reports.results import ModelReport, measure_model
from hf_kd_lambda.reports.sampling_error import standard_error
from hf_kd_lambda.tasks import TASKS
from hf_kd_lambda.tasks.task import Task
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.console import use_short_lines
from hf_kd_lambda.utils.first_output import first_output
from hf_kd_lambda.utils.names import check_known
from hf_kd_lambda.utils.paths import check_model_folder

logger = logging.get_logger(__name__)


def evaluate_model(
    name: str,
    model: PreTrainedModel,
    split: Dataset,
    args: TrainingArguments,
    task: Task,
    data: TaskData,
    processor: Any,
) -> tuple[ModelReport, Tensor]:
    """Score, size and speed of a model on encoded examples.

    Args:
        name: name of the model in its report.
        model: a classifier or a regression with one output.
        split: the model's own inputs, and labels.
        args: arguments of the plain Trainer that predicts.
        task: the model's.
        data: data before encoding.
        processor: the model's tokenizer or image processor.

    Returns:
        The report, and what is compared with other models, in the order of the split: see `Task.compared`.
    """
    # All predictions, in the order of the examples, whatever training or its evaluations leave out.
    args = dataclasses.replace(
        cast(Any, args),
        train_sampling_strategy="sequential",
        dataloader_drop_last=False,
        prediction_loss_only=False,
        eval_do_concat_batches=True,
        label_names=[name for name in LABELS if name in split.column_names] or None,
    )
    collator = task.collator(processor, None)
    trainer = Trainer(
        model,
        args,
        eval_dataset=split,
        data_collator=collator,
        preprocess_logits_for_metrics=task.preprocess_logits,
        compute_loss_func=task.task_loss(data),
    )
    use_short_lines(trainer)
    if trainer.is_fsdp_enabled:  # it shards a model only together with its optimizer; this model is whole
        trainer.is_fsdp_enabled = False
        model.to(args.device)
    example = collator([{name: x for name, x in split[0].items() if not name.startswith(TEACHER_PREFIX)}])
    inputs = accepted_inputs(model, example)
    measured = measure_model(name, model, {}, inputs)
    output = trainer.predict(split)
    compute_metrics = task.metrics(data, split)
    metrics = compute_metrics(EvalPrediction(output.predictions, output.label_ids))
    error = standard_error(compute_metrics, output.predictions, output.label_ids)
    classes = class_scores(first_output(output.predictions), output.label_ids, data.label_names)
    report = dataclasses.replace(measured, metrics=metrics, standard_error=error, classes=classes)
    return report, task.compared(output, split)


def evaluate_checkpoints(
    checkpoints: Mapping[str, str],
    data_args: DataArguments,
    split: str | None,
    batch_size: int,
    trust_remote_code: bool = False,
) -> tuple[str, list[ModelReport], float]:
    """Evaluate saved models, each on its own tokens of the same examples.

    Args:
        checkpoints: Hub ids or folders, by the names of the models in their reports; the others' agreement with one
            called "teacher", which must be the first, is measured too.
        data_args: which examples.
        split: train, validation or test, or validation_mismatched of MNLI. Default: test where its labels are known,
            else validation.
        batch_size: examples of one forward, on each device.
        trust_remote_code: run modelling code that the checkpoints carry.

    Returns:
        The split, the reports in the order of the checkpoints, and the score of a guess: see `Task.chance`.

    Raises:
        ValueError: there is no such split, no example of it has a label, or a checkpoint is for other labels.
        OSError: a checkpoint cannot be loaded.
    """
    # As in the job: autocast in evaluation as in training, and the CPU where there is no accelerator.
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(output_dir=folder, per_device_eval_batch_size=batch_size, report_to="none")
        last = list(checkpoints.values())[-1]
        for name, checkpoint in checkpoints.items():
            check_model_folder(name, checkpoint)
        task, data, split = evaluated_data(data_args, split, last, args.seed, trust_remote_code)
        reports: list[ModelReport] = []
        logits: dict[str, Tensor] = {}
        for name, checkpoint in checkpoints.items():
            model = task.load_model(checkpoint, data, trust_remote_code, require_head=True)
            processor = task.load_processor(checkpoint, trust_remote_code)
            encoded = task.encode(data, data_args, processor, None)
            report, logits[name] = evaluate_model(name, model, encoded[split], args, task, data, processor)
            report = dataclasses.replace(report, examples=task.counts(data, encoded)[split])
            # Two tokenizers may have cut different words, which are not comparable then.
            if name != "teacher" and "teacher" in logits and logits[name].shape == logits["teacher"].shape:
                report.metrics["teacher_agreement"] = teacher_agreement(logits[name], logits["teacher"])
            reports.append(report)
        return split, reports, task.chance(data)


def evaluated_data(
    data_args: DataArguments, split: str | None, checkpoint: str, seed: int, trust_remote_code: bool = False
) -> tuple[Task, TaskData, str]:
    """The task of a model and the examples that it is evaluated on.

    Args:
        data_args: which examples.
        split: its name; None for the reported one.
        checkpoint: the model, whose classes are those of the examples.
        seed: of a validation split that is held out.
        trust_remote_code: run modelling code that the checkpoint carries.

    Returns:
        The task, its data with this split alone, without the examples that have no label, and the split's name.

    Raises:
        ValueError: there is no such task or split, or no example of it has a label.
    """
    check_known(data_args.problem, TASKS, "problem")
    task = TASKS[data_args.problem]
    if split != "train":  # whose labels alone are needed then
        data_args = copy.copy(data_args)
        data_args.max_train_samples = 1
    if isinstance(data_args, EvaluatedData):
        data_args.known_classes = classes_of(checkpoint, trust_remote_code)
    data = task.load_data(data_args, seed)
    split = split or data.report_split
    if split not in data.splits:
        raise ValueError(f"split={split!r} is not one of those with labels: {', '.join(data.splits)}.")
    return task, _with_labels(data, split), split


def _with_labels(data: TaskData, split: str) -> TaskData:
    """A split without its unlabelled examples, which training examples may be.

    Raises:
        ValueError: no example has a label.
    """
    examples = data.splits[split]
    missing = count_unlabelled(examples)
    if missing == len(examples):
        raise ValueError(f"no example of the {split} split has a label, which evaluation needs: choose another split.")
    if missing:
        logger.warning(f"{missing} of {len(examples)} examples of the {split} split have no label and are left out.")
        examples = examples.select([row for row, label in enumerate(examples["label"][:]) if label is not None])
    return dataclasses.replace(data, splits=DatasetDict({split: examples}))


def classes_of(checkpoint: str, trust_remote_code: bool = False) -> list[str] | None:
    """Names of a saved model's classes, none for a regression; None if they are not known."""
    try:
        config = AutoConfig.from_pretrained(resolve_checkpoint(checkpoint), trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return None  # loading the model says why
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    return names if len(names) > 1 else []
