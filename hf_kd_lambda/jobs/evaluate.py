"""How good, how large and how fast models are on a split, and how far they agree with a teacher."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, HfArgumentParser, PreTrainedModel, Trainer, TrainingArguments

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.columns import LABELS, TEACHER_PREFIX, forward_parameters
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.jobs.defaults import MAIN_METRIC
from hf_kd_lambda.reports.agreement import teacher_agreement
from hf_kd_lambda.reports.results import ModelReport, measure_model, results_table, write_results
from hf_kd_lambda.tasks import TASKS
from hf_kd_lambda.tasks.task import Task
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.utils.names import check_known
from hf_kd_lambda.utils.versions import versions

DESCRIPTION = """\
Evaluate a saved model, a Hub id or a folder, on any split. Prints metrics, parameters, size and latency, and with
--teacher the agreement of both. The data settings are those of distill."""


def main(argv: Sequence[str]) -> None:
    """The command `evaluate`: prints a table, and writes it where asked to.

    Args:
        argv: the command line.

    Raises:
        ValueError, OSError: see `evaluate_checkpoints`.
    """
    parser = HfArgumentParser(DataArguments, prog="hf-kd-lambda evaluate", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--split", help="train, validation or test; default: test if it has labels, else validation")
    parser.add_argument("--teacher", metavar="CHECKPOINT", help="compare with this model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument("--batch_size", type=int, default=32, help="examples of one forward")
    parser.add_argument("--trust_remote_code", action="store_true", help="run modelling code of a Hub repository")
    data, options = parser.parse_args_into_dataclasses(list(argv), look_for_args_file=False)
    checkpoints = {"teacher": options.teacher} if options.teacher else {}
    checkpoints["model"] = options.model
    split, reports = evaluate_checkpoints(
        checkpoints, data, options.split, options.batch_size, options.trust_remote_code
    )
    print(f"On the {split} split:\n{results_table(reports, MAIN_METRIC)}")
    if options.json:
        facts = {"checkpoints": checkpoints, "task": data.task, "split": split, "versions": versions()}
        write_results(options.json, reports, MAIN_METRIC, None, facts)


def evaluate_model(
    name: str,
    model: PreTrainedModel,
    split: Dataset,
    args: TrainingArguments,
    problem: Task,
    data: TaskData,
    processor: Any,
) -> tuple[ModelReport, Tensor]:
    """Score, size and speed of a model on encoded examples.

    Args:
        name: of the model in its report.
        model: a classifier or a regression with one output.
        split: the model's own inputs, and labels.
        args: of the plain Trainer that predicts.
        problem: the task.
        data: that the split was encoded from.
        processor: of the model.

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
    collator = problem.collator(processor, None)
    trainer = Trainer(
        model,
        args,
        eval_dataset=split,
        data_collator=collator,
        preprocess_logits_for_metrics=problem.preprocess_logits,
        compute_loss_func=problem.task_loss(data),
    )
    if trainer.is_fsdp_enabled:  # which shards a model beside its optimizer alone, and this one is whole
        trainer.is_fsdp_enabled = False
        model.to(args.device)
    example = collator([{name: x for name, x in split[0].items() if not name.startswith(TEACHER_PREFIX)}])
    inputs = {name: example[name] for name in forward_parameters(model) & example.keys()}
    measured = measure_model(name, model, {}, inputs)
    output = trainer.predict(split)
    metrics = problem.metrics(data, split)(EvalPrediction(output.predictions, output.label_ids))
    return dataclasses.replace(measured, metrics=metrics), problem.compared(output, split)


def evaluate_checkpoints(
    checkpoints: Mapping[str, str],
    data_args: DataArguments,
    split: str | None,
    batch_size: int,
    trust_remote_code: bool = False,
) -> tuple[str, list[ModelReport]]:
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
        The split, and the reports in the order of the checkpoints.

    Raises:
        ValueError: there is no such split, or a checkpoint is for other labels.
        OSError: a checkpoint cannot be loaded.
    """
    if split != "train":  # which then only names the labels
        data_args = dataclasses.replace(data_args, max_train_samples=1)
    # As in the job: autocast in evaluation as in training, and the CPU where there is no accelerator.
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(output_dir=folder, per_device_eval_batch_size=batch_size, report_to="none")
        check_known(data_args.problem, TASKS, "problem")
        problem = TASKS[data_args.problem]
        data = problem.load_data(data_args, args.seed)
        split = split or data.report_split
        if split not in data.splits:
            raise ValueError(f"split={split!r} is none of those with labels: {', '.join(data.splits)}.")
        reports: list[ModelReport] = []
        logits: dict[str, Tensor] = {}
        for name, checkpoint in checkpoints.items():
            model = problem.load_model(checkpoint, data, trust_remote_code)
            processor = problem.load_processor(checkpoint, trust_remote_code)
            encoded = problem.encode(data, data_args, processor, None)[split]
            report, logits[name] = evaluate_model(name, model, encoded, args, problem, data, processor)
            # Two tokenizers may have cut different words, which are not comparable then.
            if name != "teacher" and "teacher" in logits and logits[name].shape == logits["teacher"].shape:
                report.metrics["teacher_agreement"] = teacher_agreement(logits[name], logits["teacher"])
            reports.append(report)
    return split, reports
