"""The model card of a distilled student: from what is known of a run to the README.md that the Hub shows."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_kd_lambda.reports.label_quality import explain_quality, quality_table
from hf_kd_lambda.reports.markdown import code_block, code_span, escaped, on_one_line
from hf_kd_lambda.reports.results import ModelReport, markdown_table
from hf_kd_lambda.reports.summary import explain_lambda

CARD, FIGURE = "README.md", "lambda.png"  # in one folder: the card links the figure
WITHOUT_LABEL = "train_unlabelled"  # in `CardFacts.examples`
DEFAULT_TASK = "text-classification"  # the Hub's name for the task, where the caller names none
TAGS = ("knowledge-distillation", "hf-kd-lambda")
# The Hub's names for our metrics. It has none for others, such as a mean of metrics.
HUB_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "f1_macro": "f1",
    "f1_micro": "f1",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearmanr": "spearmanr",
}
SUMMARY = """\
A student made by knowledge distillation with hf-kd-lambda. λ is the weight of the KD loss, which follows the teacher,
relative to that of the task loss, which follows the labels."""
LIMITATIONS = """\
- The student learned from the teacher's predictions, including their errors and biases.
- The scores are from one training run: another seed changes them, and a difference of a few examples is chance.
- λ balances two losses. It does not prove whether the labels or the teacher are right. Whether a λ tuned by a sweep
  would do better was not measured."""
CITATION = """\
```bibtex
@software{hf_kd_lambda,
  title  = {hf-kd-lambda},
  author = {{The hf-kd-lambda authors}},
}

@misc{kim2025importance,
  title  = {Importance Analysis for Dynamic Control of Balancing Parameter in a Simple Knowledge Distillation Setting},
  author = {Kim, Seongmin and Kim, Kwanho and Kim, Minseung and Jo, Kanghyun},
  year   = {2025},
  note   = {arXiv:2505.06270},
  url    = {https://arxiv.org/abs/2505.06270},
}
```"""


class Origin(NamedTuple):
    """A model or dataset that a student comes from: its name, and whether it is on the Hub."""

    name: str
    on_hub: bool

    def link(self, where: str = "") -> str:
        """Markdown: a link to the Hub, below `where`, or the bare name and that it is not there."""
        if self.on_hub:
            return f"[{escaped(self.name)}](https://huggingface.co/{where}{quote(self.name)})"
        return f"{code_span(PurePath(self.name).name)} (not on the Hub)"


@dataclass(frozen=True)
class CardFacts:
    """The content of a card; what is None or empty is left out. Names may be any text: the card escapes them.

    Args:
        name: of the student, or of its repository.
        teachers: their checkpoints.
        student: the checkpoint that was trained; None where the student was built from `layers` of the teacher.
        layers: of the teacher, counted from 0.
        teacher_finetuned: whether the teacher was first fine-tuned on the task.
        datasets: for training and evaluation.
        dataset_config: configuration of the only dataset.
        split: the one that scores are from.
        main_metric: the metric of `reports` by which models are compared.
        chance: the main metric without knowledge, see `ModelReport.retained`.
        reports: size, speed and scores of the models compared.
        metrics: the student's scores.
        log_history: the entries of `trainer_state.json`.
        examples: number of examples of each split; as WITHOUT_LABEL, of those of train without a label.
        label_quality: see `quality_summary`; None where it was not estimated.
        settings: hyper-parameters, as JSON values.
        command: trains with a file `student.yaml` of these settings.
        versions: of the packages used.
        pipeline_tag, language, license, tags: for the metadata.
    """

    name: str
    teachers: Sequence[Origin] = ()
    student: Origin | None = None
    layers: Sequence[int] | None = None
    teacher_finetuned: bool = False
    datasets: Sequence[Origin] = ()
    dataset_config: str | None = None
    split: str | None = None
    main_metric: str = "score"
    chance: float = 0.0
    reports: Sequence[ModelReport] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    log_history: Sequence[Mapping[str, float]] = ()
    examples: Mapping[str, int] = field(default_factory=dict)
    label_quality: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    pipeline_tag: str = DEFAULT_TASK
    language: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()


def model_card(facts: CardFacts) -> ModelCard:
    """The card: metadata, with the scores as a model-index, and a text."""
    sections = {
        "Results": _results(facts),
        "λ": _balance(facts),
        "Labels": _labels(facts),
        "Training": _training(facts),
        "Limits": LIMITATIONS,
        "Citation": CITATION,
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    title = escaped(facts.name)
    return ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n# {title}\n\n{_summary(facts)}\n\n{body}\n")


def _metadata(facts: CardFacts) -> ModelCardData:
    bases = [origin.name for origin in (facts.student, *facts.teachers) if origin is not None and origin.on_hub]
    known = {name: value for name, value in facts.metrics.items() if name in HUB_METRICS and math.isfinite(value)}
    scores = _model_index(facts, known)
    return ModelCardData(
        language=facts.language,
        license=facts.license,
        library_name="transformers",
        pipeline_tag=facts.pipeline_tag,
        tags=list(dict.fromkeys([*TAGS, *facts.tags])),
        base_model=list(dict.fromkeys(bases)) or None,
        # Without it, the Hub takes a model with two bases for a merge of both.
        base_model_relation="finetune" if bases else None,
        datasets=[dataset.name for dataset in facts.datasets if dataset.on_hub] or None,
        metrics=list(dict.fromkeys(HUB_METRICS[name] for name in known)) or None,
        model_name=on_one_line(facts.name) if scores else None,
        eval_results=scores or None,
    )


def _model_index(facts: CardFacts, metrics: Mapping[str, float]) -> list[EvalResult]:
    """The scores, where they are of one dataset that the Hub can name."""
    if len(facts.datasets) != 1 or not facts.datasets[0].on_hub:
        return []
    dataset = facts.datasets[0].name
    return [
        EvalResult(
            task_type=facts.pipeline_tag,
            dataset_type=dataset,
            dataset_name=" ".join(filter(None, [dataset, facts.dataset_config])),
            dataset_config=facts.dataset_config,
            dataset_split=facts.split,
            metric_type=HUB_METRICS[name],
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in metrics.items()
    ]


def _summary(facts: CardFacts) -> str:
    rule = facts.settings.get("lambda_rule")
    rows = {
        "teachers" if len(facts.teachers) > 1 else "teacher": facts.teachers
        and ", ".join(teacher.link() for teacher in facts.teachers)
        + ", fine-tuned on the task" * facts.teacher_finetuned,
        "student": _student(facts),
        "task": escaped(" ".join(filter(None, [facts.pipeline_tag, facts.settings.get("task")]))),
        "dataset": ", ".join(dataset.link("datasets/") for dataset in facts.datasets),
        "configuration of the dataset": facts.dataset_config and escaped(facts.dataset_config),
        "training examples": training_examples(facts.examples),
        "rule for λ": rule and code_span(rule),
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)])
    return f"{SUMMARY}\n\n{table}"


def training_examples(examples: Mapping[str, int]) -> str:
    """How many examples were trained on, with and without a label; empty where that is not known.

    Args:
        examples: see `CardFacts`.
    """
    if "train" not in examples:
        return ""
    unlabelled = examples.get(WITHOUT_LABEL, 0)
    labelled = f"{examples['train'] - unlabelled:,}"
    return f"{labelled} with a label, {unlabelled:,} without" if unlabelled else labelled


def _student(facts: CardFacts) -> str | None:
    if facts.layers:
        return f"layers {', '.join(map(str, facts.layers))} of the teacher, counted from 0"
    return facts.student and facts.student.link()


def _results(facts: CardFacts) -> str:
    where = f"On the {escaped(facts.split)} split:\n\n" if facts.split else ""
    if facts.reports:
        latency = (
            "Latency is the median time of one forward with one example, on the machine that trained the student."
        )
        return f"{where}{markdown_table(facts.reports, facts.main_metric, facts.chance)}\n\n{latency}"
    rows = [f"| {escaped(name)} | {value:.4g} |" for name, value in facts.metrics.items()]
    return where + "\n".join(["| metric | value |", "|---|---|", *rows]) if rows else ""


def _balance(facts: CardFacts) -> str:
    figure = f"![λ and what it was computed from, over the steps]({FIGURE})"
    explanation = "\n".join(map(escaped, explain_lambda(facts.log_history).splitlines()))
    return f"{figure}\n\n{explanation}" if facts.log_history else ""


def _labels(facts: CardFacts) -> str:
    if facts.label_quality is None:
        return ""
    words = explain_quality(facts.label_quality, facts.teacher_finetuned)
    return f"Of the training examples: {words}\n\n{quality_table(facts.label_quality)}"


def _training(facts: CardFacts) -> str:
    given = {name: without_folders(value) for name, value in facts.settings.items() if value not in (None, [], {})}
    plain = json.loads(json.dumps(given))  # enumerations become text, as YAML has them
    parts = [code_block(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), "yaml")] if plain else []
    if facts.command:
        parts.append(f"With these settings in `student.yaml`:\n\n{code_block(facts.command, 'bash')}")
    if facts.versions:
        parts.append(
            f"Versions: {escaped(', '.join(f'{name} {version}' for name, version in facts.versions.items()))}."
        )
    return "\n\n".join(parts)


def without_folders(value: Any) -> Any:
    """A setting as a card may show it: an absolute path is cut to its last part, as no reader has these folders."""
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def origin_of(name: str, bundled: Collection[str]) -> Origin:
    """Where a `teacher`, `student` or `dataset` setting leads: to the Hub, unless there is such a file or folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return Origin(name, on_hub=False)
    return Origin(name, on_hub=name not in bundled and not Path(name).exists())
