"""Facts of a finished job for its model card."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hf_kd_lambda.data.bundled import BUNDLED
from hf_kd_lambda.reports.model_card import CardFacts, origin_of
from hf_kd_lambda.reports.results import ModelReport
from hf_kd_lambda.utils.versions import versions

if TYPE_CHECKING:
    from hf_kd_lambda.jobs.job import DistillationJob


def facts_of_job(
    job: "DistillationJob",
    main_metric: str,
    reports: Sequence[ModelReport],
    log_history: Sequence[Mapping[str, float]],
) -> CardFacts:
    """What a job knows at its end.

    Args:
        job: that ran.
        main_metric: of the reports.
        reports: of the models compared; the last is the student's.
        log_history: the entries of `trainer_state.json`.
    """
    models, data, config = job.models, job.data_args, job.config
    settings = {name: value for name, value in job.settings.items() if name != "teacher_dir"}
    processes = f" --num_processes {config.world_size}" if config.world_size > 1 else ""
    sources = (data.dataset, data.train_file, data.validation_file, data.test_file)
    return CardFacts(
        name=job.repository or job.folder.resolve().name,
        teacher=origin_of(models.teacher, BUNDLED) if models.teacher else None,
        student=origin_of(models.student, BUNDLED) if models.student else None,
        layers=models.student_layers,
        teacher_finetuned=models.teacher_finetune,
        datasets=[origin_of(source, BUNDLED) for source in sources if source],
        dataset_config=(data.dataset_config or data.task) if data.dataset else None,
        split=_split_on_the_hub(job),
        main_metric=main_metric,
        chance=job.problem.chance(job.data)[1],
        reports=reports,
        metrics=reports[-1].metrics,
        log_history=log_history,
        settings=settings,
        command=f"accelerate launch{processes} scripts/distill.py student.yaml",
        versions=versions(),
        pipeline_tag=data.problem,
    )


def _split_on_the_hub(job: "DistillationJob") -> str:
    """The reported split as `load_dataset` names it, and how much of it."""
    split, first = job.data.report_split, job.data_args.max_eval_samples
    if (job.data_args.task, split) == ("mnli", "validation"):
        split = "validation_matched"
    return f"{split}[:{first}]" if first else split
