"""What a finished job leaves to read: the figure of λ, the model card, results.json and the text of the terminal."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import BUNDLED
from hf_kd_lambda.data.selection import texts_of
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.progress import print_wrapped
from hf_kd_lambda.reports.figure import plot_lambda
from hf_kd_lambda.reports.label_quality import LabelQuality, explain_quality, most_suspicious
from hf_kd_lambda.reports.model_card import (
    CALLS,
    CardFacts,
    model_card,
    origin_of,
    run_notes,
    training_examples,
    without_folders,
)
from hf_kd_lambda.reports.page import as_html
from hf_kd_lambda.reports.results import ModelReport, results_table, write_results
from hf_kd_lambda.reports.run_report import LAMBDA_IN_WORDS, Differing, most_differing, run_page
from hf_kd_lambda.reports.summary import explain_lambda, lambda_summary
from hf_kd_lambda.utils.run_files import CARD, FIGURE, QUALITY_FILE, REPORT, RESULTS
from hf_kd_lambda.utils.versions import versions

_NOT_OF_RUN = ("task", "delimiter")
"""Settings for reading examples that `evaluate` does not take from the folder of a run."""


def differing_texts(data: TaskData, student_logits: Tensor, teacher_logits: Tensor) -> list[Differing] | None:
    """The texts of the reported split on which student and teacher differ most; None for other problems.

    Args:
        data: the examples.
        student_logits, teacher_logits: in the order of the split.
    """
    split = data.splits[data.report_split]
    texts = _shown_texts(split)
    if not texts or "label" not in split.column_names:
        return None
    labels = split["label"][:]
    if not all(isinstance(label, int | float) for label in labels):  # several labels, or answers
        return None
    return most_differing(texts, labels, student_logits, teacher_logits, data.label_names)


def suspicious_examples(data: TaskData, quality: LabelQuality) -> list[dict[str, Any]]:
    """The training examples whose labels look wrong most, with their rows in the data and their texts.

    Args:
        data: the examples.
        quality: of the training examples.
    """
    found = most_suspicious(quality)
    rows = [example["row"] for example in found]
    texts = _shown_texts(data.splits["train"].select(rows))
    shown = [{"text": text} for text in texts] if texts else [{}] * len(found)
    return [
        {**example, "row": data.train_rows[row], **text} for example, row, text in zip(found, rows, shown, strict=True)
    ]


def _shown_texts(examples: Dataset) -> list[str]:
    """The text, or the pair of texts, of each example; empty for problems without them."""
    return [" ‖ ".join(texts) for texts in texts_of(examples)] if "text" in examples.column_names else []


def write_job_report(
    folder: Path,
    card: CardFacts,
    data: DataArguments,
    split: str,
    settings: Mapping[str, Any],
    differing: Sequence[Differing] | None = None,
    suspicious: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write figure, card and results into the student's folder, and print a summary.

    Args:
        folder: the student's.
        card: facts of the run, see `card_facts`.
        data: as given.
        split: evaluated on.
        settings: settings that change the student, as JSON values.
        differing: see `differing_texts`; None where it was not compared.
        suspicious: see `suspicious_examples`.
    """
    reports, history = card.reports, [dict(entry) for entry in card.log_history]
    notes = run_notes(card)
    figure = plot_lambda(history, folder / FIGURE)
    model_card(card).save(folder / CARD)
    page = run_page(card, split, figure, differing, suspicious)
    (folder / REPORT).write_text(as_html(page), encoding="utf-8")
    facts = {
        "task": data.task,
        "split": split,
        "examples": dict(card.examples),
        "notes": notes,
        "lambda": lambda_summary(history),
        **({} if card.label_quality is None else {"label_quality": card.label_quality}),
        "settings": without_folders(settings),
        "versions": versions(),
    }
    write_results(folder / RESULTS, reports, figure, facts, card.chance)
    count = card.examples.get(split, 0)
    print(f"\nOn the {split} split, {count:,} examples:\n\n{results_table(reports, card.chance)}\n")
    print_wrapped(notes)
    print(f"Training examples: {training_examples(card.examples)}.\n")
    print_wrapped([LAMBDA_IN_WORDS, *explain_lambda(history).splitlines()])
    if card.label_quality is not None:
        print_wrapped(["", f"Labels: {explain_quality(card.label_quality)}"])
    print(f"\nstudent: {folder}\nreport: {folder / REPORT}\nmodel card: {folder / CARD}")
    print(f"results: {folder / RESULTS}\nfigure of λ: {figure}")
    if card.label_quality is not None:
        print(f"labels, the trust in each: {folder / QUALITY_FILE}")
    print(f"\nWhat you can do next:\n{next_steps(folder, data, bool(settings.get('trust_remote_code')))}")


def next_steps(folder: Path, data: DataArguments, trusts_code: bool = False) -> str:
    """Commands for a finished student, with what they do on the line above.

    Args:
        folder: the student's.
        data: as given.
        trusts_code: whether the student needs code of its repository, which cannot be exported.
    """
    given = {name: getattr(data, name) for name in _NOT_OF_RUN}
    options = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
    options += ["--trust_remote_code"] * trusts_code
    lines = [f"  # label new examples, in Python: the lines are in\n  {folder / CARD}"] * (data.problem in CALLS)
    commands = {
        shlex.join(["evaluate", str(folder), "NEW_EXAMPLES", *options]): "evaluate it on other examples",
        shlex.join(["push", str(folder), f"YOUR_NAME/{folder.resolve().name}"]): "push it to the Hub",
        **({} if trusts_code else {shlex.join(["export", str(folder)]): "export it to ONNX"}),
    }
    return "\n".join([*lines, *(f"  # {what}\n  hf-kd-lambda {command}" for command, what in commands.items())])


def card_facts(
    name: str,
    models: ModelArguments,
    data: DataArguments,
    settings: Mapping[str, Any],
    num_processes: int,
    reports: Sequence[ModelReport],
    log_history: Sequence[Mapping[str, float]],
    chance: float,
    examples: Mapping[str, int],
    loaded: TaskData,
    label_quality: Mapping[str, Any] | None = None,
) -> CardFacts:
    """Facts of a finished job for its model card.

    Args:
        name: name of the student or its repository.
        models, data: as given.
        settings: settings that change the student.
        num_processes: number of training processes.
        reports: reports of the compared models; the last is the student's.
        log_history: the entries of `trainer_state.json`.
        chance: the score without knowledge.
        examples: number of examples of each split; as WITHOUT_LABEL, of those of train without a label.
        label_quality: see `quality_summary`; None where it was not estimated.
        loaded: the examples.
    """
    processes = f" --num_processes {num_processes}" if num_processes > 1 else ""
    sources = [data.dataset, data.train_file, data.unlabelled_file, data.unlabelled_dataset]
    sources += [data.validation_file, data.test_file]
    return CardFacts(
        name=name,
        teachers=[origin_of(teacher, BUNDLED) for teacher in models.teachers],
        student=origin_of(models.student, BUNDLED) if models.student else None,
        layers=models.student_layers,
        teacher_finetuned=models.teacher_finetune,
        datasets=[origin_of(source, BUNDLED) for source in sources if source],
        dataset_config=data.dataset_config or data.task if data.dataset else None,
        split=_split_on_the_hub(data, loaded.report_split),
        held_out=loaded.held_out and loaded.report_split == "validation",
        chance=chance,
        reports=reports,
        metrics=reports[-1].metrics,
        log_history=log_history,
        examples=examples,
        label_quality=label_quality,
        labels=loaded.label_names or [],
        has_pairs=loaded.has_pairs,
        settings={key: value for key, value in settings.items() if key != "teacher_dir"},
        command=f"hf-kd-lambda distill student.yaml --output_dir student{processes}",
        versions=versions(),
        own_code=models.trust_remote_code,
        pipeline_tag=data.problem,
    )


def _split_on_the_hub(data: DataArguments, split: str) -> str:
    """The reported split as `load_dataset` names it, and how much of it."""
    if (data.task, split) == ("mnli", "validation"):
        split = "validation_matched"
    return f"random sample of the {split}" if data.max_eval_samples else split
