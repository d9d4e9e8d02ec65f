"""Facts for the model card of a student whose trainer is used without a job."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import Trainer, TrainingArguments
from transformers.modelcard import extract_hyperparameters_from_trainer

from hf_kd_lambda.data.bundled import BUNDLED
from hf_kd_lambda.models.model_task import task_of_model
from hf_kd_lambda.reports.model_card import DEFAULT_TASK, CardFacts, origin_of
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.utils.log_keys import TIMES
from hf_kd_lambda.utils.versions import versions


def facts_of_trainer(
    trainer: Trainer,
    teachers: Sequence[str],
    *,
    language: str | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    tasks: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
    dataset: str | list[str] | None = None,
    dataset_args: str | list[str] | None = None,
) -> CardFacts:
    """The settings, logs and last evaluation of a trainer, with the arguments of `create_model_card`.

    Args:
        trainer: after its training.
        teachers: names or paths of its teachers.
        language, license, tags, model_name, finetuned_from, tasks, dataset_tags, dataset, dataset_args: see `Trainer`.
    """
    args, history = cast(Any, trainer.args), trainer.state.log_history
    own = {field.name for field in dataclasses.fields(DistillationConfig)}
    own -= {field.name for field in dataclasses.fields(TrainingArguments)}
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    student = finetuned_from or getattr(model, "name_or_path", None)
    return CardFacts(
        name=model_name or Path(str(args.output_dir)).resolve().name,
        teachers=[origin_of(teacher, BUNDLED) for teacher in teachers],
        # A student made of layers of its teacher has the teacher's name.
        student=origin_of(student, BUNDLED) if student and student not in teachers else None,
        datasets=[origin_of(name, BUNDLED) for name in _listed(dataset_tags) or _listed(dataset)],
        dataset_config=next(iter(_listed(dataset_args)), None),
        metrics=_evaluation(history, _best_step(trainer)),
        log_history=history,
        settings={name: getattr(args, name) for name in sorted(own)} | extract_hyperparameters_from_trainer(trainer),
        versions=versions(),
        own_code=bool(getattr(model.config, "auto_map", None)),
        pipeline_tag=next(iter(_listed(tasks)), task_of_model(model) or DEFAULT_TASK),
        language=language,
        license=license,
        tags=_listed(tags),
    )


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _best_step(trainer: Trainer) -> int | None:
    """The optimizer step of the best checkpoint, if the student was loaded from it and was not evaluated since."""
    logged = [name for entry in trainer.state.log_history for name in entry if name.startswith(("eval_", "train_"))]
    ends_trained = bool(logged) and not logged[-1].startswith("eval_")
    return trainer.state.best_global_step if trainer.args.load_best_model_at_end and ends_trained else None


def _evaluation(history: Sequence[Mapping[str, Any]], step: int | None) -> dict[str, float]:
    """The metrics logged at a step, by default the last one, without `eval_` and the times that evaluations took.

    Each of several evaluation datasets has an entry of its own in the history.
    """
    evaluations = [entry for entry in history if any(name.startswith("eval_") for name in entry)]
    step = evaluations[-1].get("step") if step is None and evaluations else step
    found = {name: value for entry in evaluations if entry.get("step") == step for name, value in entry.items()}
    return {
        name.removeprefix("eval_"): value
        for name, value in found.items()
        if name.startswith("eval_") and not name.endswith(TIMES)
    }
