"""The command `probe`: changes of both losses by a step as a function of λ, at checkpoints of a run."""

import argparse
import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.columns import TEACHER_PREFIX, accepted_inputs
from hf_kd_lambda.data.selection import labelled
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.jobs.run_folder import claim_folder
from hf_kd_lambda.models.protocol import as_model_output
from hf_kd_lambda.studies.probe.probe_report import Stage, write_probe_report
from hf_kd_lambda.studies.probe.slopes import measure_slopes
from hf_kd_lambda.studies.probe.steps import Gradients, gradients_of, losses_on
from hf_kd_lambda.studies.probe.sweep import sweep
from hf_kd_lambda.studies.probe.updates import adam_momentum, adam_tangent, metric_before, metric_of_step, sgd_update
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.strategy_checks import ADAM_OPTIMIZERS
from hf_kd_lambda.trainer.trainer import DistillationTrainer

SAVED = 0.1  # of the run, between checkpoints
SGD_RATES = [10 ** (exponent / 2) for exponent in range(-10, -3)]
ADAMW_RATES = [10.0**exponent for exponent in range(-6, -2)]
BATCHES = 8  # on which predictions of AdamW's slopes are compared
DESCRIPTION = """\
Measure how a step changes both losses as a function of λ, at an early, a middle and the last checkpoint of a run.
Trains the run first, in <output_dir>/probe, unless it is finished. Also takes the settings of distill. Writes a page
of tables, with figures."""


def main(argv: Sequence[str]) -> None:
    """Train if needed, measure, print and draw.

    Args:
        argv: the command line.

    Raises:
        ValueError, OSError, ModuleNotFoundError: a setting is wrong.
        TrainingStoppedError: a signal stopped training.
    """
    options = argparse.ArgumentParser(prog="hf-kd-lambda probe", description=DESCRIPTION, allow_abbrev=False)
    options.add_argument("--steps", type=int, nargs="+", help="checkpoints; default: the first, the middle, the last")
    options.add_argument("--report_dir", type=Path, help="for the page and its figures; default: <output_dir>/probe")
    args, settings = options.parse_known_args(argv)
    models, data, config = parse(settings)
    job = probed_job(models, data, config)
    job.check()
    if not claim_folder("output_dir", job.folder, job.student_settings):
        job.run()
    checkpoints = chosen_checkpoints(job.folder, args.steps)
    teacher = job.load_teacher()
    stages = {stage: probe(job, teacher, checkpoint) for stage, checkpoint in checkpoints.items()}
    command = shlex.join(["hf-kd-lambda", "probe", *argv])
    print(write_probe_report(args.report_dir or job.folder, Path(str(config.output_dir)).name, command, stages))


def probed_job(models: ModelArguments, data: DataArguments, config: DistillationConfig) -> DistillationJob:
    """The run with these settings that saves a checkpoint at each tenth, in a folder of its own.

    Raises:
        ValueError: the task is not text-classification, or the run has other losses or parameters than the probe.
    """
    if data.problem != "text-classification":
        raise ValueError(f"problem={data.problem!r} cannot be probed, only text-classification.")
    _check_run(data, config)
    for setting in ("freeze_embeddings", "lora"):
        if value := getattr(models, setting):
            raise ValueError(f"{setting}={value}: the probe moves all parameters of a student: leave it out.")
    # Tenths choose another best teacher than epochs: it is one of the probe's own, in its folder.
    models = dataclasses.replace(models, student_without_kd=False, teacher_dir=None)
    folder = str(Path(str(config.output_dir)) / "probe")
    saved = {"save_strategy": "steps", "save_steps": SAVED, "save_total_limit": None, "save_only_model": False}
    evaluated = {"eval_strategy": "steps", "eval_steps": SAVED}  # load_best_model_at_end needs the same steps
    # λ is logged before each checkpoint.
    logged = {"logging_strategy": "steps", "logging_first_step": True, "logging_steps": SAVED / 5}
    own = {**saved, **evaluated, **logged, "output_dir": folder, "push_to_hub": False}
    return DistillationJob(models, data, dataclasses.replace(cast(Any, config), **own))


def _check_run(data: DataArguments, config: DistillationConfig) -> None:
    """Refuse settings that change the losses of a run, or combine them otherwise than the probe's steps of Adam.

    Raises:
        ValueError: names the setting and the fix.
    """
    refused = {
        f"problem_type={data.problem_type!r}: probe a run with one class, or a number, for each text.": (
            data.has_label_lists
        ),
        f"kd_losses={config.kd_losses}: leave it out, for the default KD loss.": (
            config.kd_losses not in (None, {"soft_targets": 1.0})
        ),
        f"label_smoothing_factor={config.label_smoothing_factor}: set it to 0.": config.label_smoothing_factor != 0,
        f"class_weights={config.class_weights!r}: leave it out.": config.class_weights is not None,
        f"lambda_rule={config.lambda_rule!r}, the default, which weighs items: set it to adaptive.": (
            config.lambda_rule == "trust"
        ),
        f"lambda_scope={config.lambda_scope!r}: set it to model, for one λ.": config.lambda_scope != "model",
        f"kd_weight={config.kd_weight}: its steps follow one loss alone: choose a weight between 0 and 1.": (
            config.lambda_rule == "fixed" and config.kd_weight in (0, 1)
        ),
        f"optim={config.optim.value!r}, which has no moments of Adam: set it to adamw_torch.": (
            config.optim not in ADAM_OPTIMIZERS
        ),
    }
    for message, is_refused in refused.items():
        if is_refused:
            raise ValueError(f"The probe takes plain steps of Adam on plain losses, and cannot probe {message}")


def chosen_checkpoints(folder: Path, steps: list[int] | None) -> dict[str, Path]:
    """The checkpoints to probe, by their names in the report.

    Raises:
        ValueError: one of the steps has no checkpoint, or there is none.
    """
    names = (path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*"))
    saved = sorted(int(name) for name in names if name.isdigit())
    if not saved:
        raise ValueError(f"{folder} has no checkpoint any more: remove the folder to train again.")
    if missing := set(steps or []) - set(saved):
        raise ValueError(f"steps {sorted(missing)} have no checkpoint in {folder}: choose from {saved}.")
    chosen = steps or sorted({saved[0], saved[(len(saved) - 1) // 2], saved[-1]})
    return {f"step {step}": folder / f"checkpoint-{step}" for step in chosen}


def probe(job: DistillationJob, teacher: PreTrainedModel, checkpoint: Path) -> Stage:
    """Take steps of SGD and of AdamW from a checkpoint on a training batch, and a few of AdamW on other batches."""
    print(f"probing {checkpoint}", flush=True)
    student = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, trust_remote_code=job.models.trust_remote_code
    )
    train, validation = job.tokens["train"], job.tokens["validation"]
    # The trainer matches the order of the teacher's labels, and groups the parameters as in the saved optimizer.
    trainer = DistillationTrainer(student, job.config, teacher=teacher, train_dataset=train, eval_dataset=validation)
    student.double(), teacher.double()
    adamw = cast(Adam, trainer.create_optimizer())
    adamw.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]

    slopes = []
    for index in reversed(range(BATCHES)):  # the sweeps below use the first batch
        losses = losses_on(student, *batch(job, student, teacher, index), job.config.temperature)
        gradients = gradients_of(losses, parameters)
        weights = clipped(weights_in_force(checkpoint), gradients, job.config.max_grad_norm)
        predicted = adam_products(adamw, gradients, weights)
        slopes.append(measure_slopes(losses, adamw, gradients, predicted, ADAMW_RATES[0], weights))
    gram = sgd_update(gradients).products(gradients)
    ratio = (gram[0, 1] / gram[1, 2]).sqrt()  # √(a/b)
    # Negative λ, which no rule chooses, show the parabola's vertex.
    lambdas = ratio * torch.linspace(-2, 4, 19, dtype=torch.double)
    sgd, of_run = SGD(gradients.parameters), (1.0, weights[1] / weights[0])
    of_sgd = sweep(losses, sgd, gradients, {"Gram matrix": gram}, lambdas, SGD_RATES, of_run)
    # For AdamW, negative λ would add the square of an unrealistic gradient to the second moments.
    lambdas = ratio * torch.linspace(0, 4, 17, dtype=torch.double)
    of_adamw = sweep(losses, adamw, gradients, predicted, lambdas, ADAMW_RATES, weights)
    return Stage(of_sgd, of_adamw, slopes)


def adam_products(optimizer: Adam, gradients: Gradients, weights: tuple[float, float]) -> dict[str, Tensor]:
    """Predictions of a step of AdamW, by their names in the report."""
    momentum = adam_momentum(optimizer, gradients)
    return {
        "derivative of the update": adam_tangent(optimizer, gradients, weights).products(gradients),
        "Adam, v of the step": momentum.times(metric_of_step(optimizer, gradients, weights)).products(gradients),
        "Adam, v before the step": momentum.times(metric_before(optimizer, gradients)).products(gradients),
        "Euclidean": momentum.products(gradients),
    }


def batch(
    job: DistillationJob, student: PreTrainedModel, teacher: PreTrainedModel, index: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Inputs of the student, logits of the teacher and labels of a batch of labelled examples, drawn by the seed."""
    tokens, size = labelled(job.tokens["train"]), job.config.per_device_train_batch_size
    generator = torch.Generator().manual_seed(job.config.seed)
    chosen = torch.randperm(len(tokens), generator=generator).roll(-index * size)[:size].tolist()
    collator = job.task.collator(job.loader.student_processor, job.loader.own_processor)
    columns = {name: value.to(student.device) for name, value in collator([tokens[index] for index in chosen]).items()}
    prefix = TEACHER_PREFIX if job.loader.own_processor is not None else ""
    teachers = {name.removeprefix(prefix): value for name, value in columns.items() if name.startswith(prefix)}
    with torch.no_grad():
        logits = as_model_output(teacher(**accepted_inputs(teacher, teachers)), teacher, "teacher").logits
    students = accepted_inputs(student, columns)
    return students, logits, columns["labels"]


def weights_in_force(checkpoint: Path) -> tuple[float, float]:
    """(w_task, w_kd) of the run, last logged before a checkpoint.

    Raises:
        ValueError: no positive λ was logged.
    """
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    entry = next((entry for entry in reversed(log) if entry.get("lambda")), None)
    if entry is None:
        raise ValueError(f"no positive λ was logged before {checkpoint}: choose later --steps, or another rule.")
    return entry["kd_weight"] / entry["lambda"], entry["kd_weight"]


def clipped(weights: tuple[float, float], gradients: Gradients, max_norm: float) -> tuple[float, float]:
    """The weights times the Trainer's clipping factor for the combined gradient."""
    norm = torch.nn.utils.get_total_norm(gradients.combined(*weights)).item()
    factor = min(1.0, max_norm / norm) if max_norm else 1.0
    return factor * weights[0], factor * weights[1]
