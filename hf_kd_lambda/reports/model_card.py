"""The model card of a distilled student: the README.md for the Hub, from the facts of a run."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple, cast
from urllib.parse import quote

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.reports.label_quality import explain_quality, quality_table
from hf_kd_lambda.reports.markdown import code_block, code_span, escaped, on_one_line, table_of
from hf_kd_lambda.reports.results import ModelReport, guessing_teacher_note, markdown_table, score_meaning, score_notes
from hf_kd_lambda.reports.summary import explain_lambda
from hf_kd_lambda.utils.run_files import FIGURE

WITHOUT_LABEL = "train_unlabelled"  # in `CardFacts.examples`
FEW_LABELS = 300  # training examples; with fewer, rules that judge labels and teacher are inaccurate
JUDGING_RULES = ("trust", "evidence")
ONE_LABEL_EACH = ("text-classification", "image-classification")  # a text of other tasks has many labels
DEFAULT_TASK = "text-classification"  # the Hub's name of the default task
TAGS = ("knowledge-distillation", "hf-kd-lambda")
# The Hub's names of our metrics; other metrics, such as means, have none.
HUB_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "f1_macro": "f1",
    "f1_micro": "f1",
    "matthews_correlation": "matthews_correlation",
    "pearson": "pearsonr",
    "spearmanr": "spearmanr",
}
_NO_PATHS = ("_column", "_columns", "_separator", "delimiter")
"""Ends of the names of settings whose values may begin like a path, and are none."""
# A call of the student, by the Hub's name of the task: what its pipeline is called, and what it reads.
CALLS = {
    "text-classification": ("classify", "'A text to classify.'"),
    "token-classification": ("tag", "'A sentence whose words are labelled.'"),
    "image-classification": ("classify", "'picture.png'"),
    "text-generation": ("generate", "'The beginning of a text'"),
}
_PAIR = "{'text': 'The first text.', 'text_pair': 'The second text.'}"
MOST_LABELS = 30  # that are named
SUMMARY = """\
A student trained by knowledge distillation with hf-kd-lambda. λ is the weight of the KD loss (learning from the
teacher) relative to that of the task loss (learning from labels)."""
LIMITATIONS = """\
- The student learned from the teacher's predictions, including their errors and biases.
- The scores are from one training run. They vary with the seed, and differences of a few examples are not significant.
- λ balances two losses. It does not prove whether the labels or the teacher are right. A λ tuned by a sweep was not
  compared."""
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
    """A source of the student, a model or dataset: its name, and whether it is on the Hub."""

    name: str
    on_hub: bool

    def link(self, where: str = "") -> str:
        """Markdown: a link to the Hub (below `where`), or the name and "not on the Hub"."""
        if self.on_hub:
            return f"[{escaped(self.name)}](https://huggingface.co/{where}{quote(self.name)})"
        return f"{code_span(PurePath(self.name).name)} (not on the Hub)"


@dataclass(frozen=True)
class CardFacts:
    """The content of a card. None and empty values are omitted. Names may be any text: the card escapes them.

    Args:
        name: name of the student or its repository.
        teachers: the teachers' checkpoints.
        student: the checkpoint that was trained; None if the student was built from `layers` of the teacher.
        layers: layers of the teacher, counted from 0.
        teacher_finetuned: whether the teacher was fine-tuned on the task first.
        datasets: datasets for training and evaluation.
        dataset_config: configuration, if there is one dataset.
        labels: names of the classes, in the order of the outputs.
        has_pairs: whether the student reads two texts.
        split: the split of the scores.
        held_out: whether its examples are of the training split, and no split of their own.
        chance: the score of a trivial prediction, see `ModelReport.retained`.
        reports: size, speed and scores of the compared models.
        metrics: the student's scores.
        log_history: the entries of `trainer_state.json`.
        examples: number of examples per split, and of unlabelled training examples under `WITHOUT_LABEL`.
        label_quality: see `quality_summary`; None if it was not estimated.
        settings: hyper-parameters, as JSON values.
        command: the command that trains with these settings in `student.yaml`.
        versions: versions of the packages.
        own_code: whether the student is loaded with modules of its repository.
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
    held_out: bool = False
    chance: float = 0.0
    reports: Sequence[ModelReport] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    log_history: Sequence[Mapping[str, float]] = ()
    examples: Mapping[str, int] = field(default_factory=dict)
    label_quality: Mapping[str, Any] | None = None
    labels: Sequence[str] = ()
    has_pairs: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    own_code: bool = False
    pipeline_tag: str = DEFAULT_TASK
    language: str | None = None
    license: str | None = None
    tags: Sequence[str] = ()


def model_card(facts: CardFacts) -> ModelCard:
    """The card: metadata, with the scores as a model-index, and a text."""
    sections = {
        "Usage": _usage(facts),
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
        # Otherwise the Hub shows a model with two base models as their merge.
        base_model_relation="finetune" if bases else None,
        datasets=[dataset.name for dataset in facts.datasets if dataset.on_hub] or None,
        metrics=list(dict.fromkeys(HUB_METRICS[name] for name in known)) or None,
        model_name=on_one_line(facts.name) if scores else None,
        eval_results=scores or None,
    )


def _model_index(facts: CardFacts, metrics: Mapping[str, float]) -> list[EvalResult]:
    """The scores, if they come from a split of a single dataset on the Hub."""
    if len(facts.datasets) != 1 or not facts.datasets[0].on_hub or facts.held_out:
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
        "labels": _class_names(facts),
        "dataset": ", ".join(dataset.link("datasets/") for dataset in facts.datasets),
        "configuration of the dataset": facts.dataset_config and escaped(facts.dataset_config),
        "training examples": training_examples(facts.examples),
        "rule for λ": rule and code_span(rule),
    }
    table = table_of([("", ""), *((name, value) for name, value in rows.items() if value)])
    return f"{SUMMARY}\n\n{table}"


def training_examples(examples: Mapping[str, int]) -> str:
    """Number of training examples with and without a label; empty if unknown.

    Args:
        examples: see `CardFacts`.
    """
    if "train" not in examples:
        return ""
    unlabelled = examples.get(WITHOUT_LABEL, 0)
    labelled = f"{examples['train'] - unlabelled:,}"
    return f"{labelled} with a label, {unlabelled:,} without" if unlabelled else labelled


def run_notes(facts: CardFacts) -> list[str]:
    """Sentences on the scores of a run, see `score_notes`, and on its number of labels."""
    notes = score_notes(facts.reports, facts.log_history, facts.chance, facts.settings)
    rule, count = facts.settings.get("lambda_rule"), facts.examples.get("train", FEW_LABELS)
    labelled = count - facts.examples.get(WITHOUT_LABEL, 0)
    one_each = facts.pipeline_tag in ONE_LABEL_EACH and facts.settings.get("problem_type") != MULTI_LABEL
    if 0 < labelled < FEW_LABELS and rule in JUDGING_RULES and one_each:
        notes.append(
            f"With fewer than {FEW_LABELS} labelled training examples, here {labelled}, the estimates of lambda_rule: "
            f"{rule} are inaccurate: also try lambda_rule: fixed with kd_weight: 0.9, or lambda_rule: adaptive."
        )
    return notes


def _class_names(facts: CardFacts) -> str:
    more = f" and {len(facts.labels) - MOST_LABELS} more" if len(facts.labels) > MOST_LABELS else ""
    return ", ".join(map(escaped, facts.labels[:MOST_LABELS])) + more


def _usage(facts: CardFacts) -> str:
    """Code that loads the student and calls it; empty for a task without a pipeline, or where nothing was trained."""
    if facts.pipeline_tag not in CALLS or not (facts.log_history or facts.reports):
        return ""
    call, example = CALLS[facts.pipeline_tag]
    example = _PAIR if facts.has_pairs else example
    name = on_one_line(facts.name)
    trusted = ", trust_remote_code=True" * facts.own_code
    code = f"""from transformers import pipeline

{call} = pipeline({facts.pipeline_tag!r}, model={(name if "/" in name else f"path/to/{name}")!r}{trusted})
print({call}({example}))"""
    return code_block(code, "python")


def _student(facts: CardFacts) -> str | None:
    if facts.layers:
        teacher = "the first teacher" if len(facts.teachers) > 1 else "the teacher"
        return f"layers {', '.join(map(str, facts.layers))} of {teacher}, counted from 0"
    return facts.student and facts.student.link()


def _results(facts: CardFacts) -> str:
    count = facts.examples.get((facts.split or "").rpartition(" ")[2])
    of = f" ({count:,} examples)" if count else ""
    what = "examples held out of the training split" if facts.held_out else f"the {escaped(facts.split or '')} split"
    where = f"On {what}{of}:\n\n" if facts.split else ""
    if facts.reports:
        latency = "Latency is the time of one forward with one example, on the machine that wrote this card."
        meaning = score_meaning(facts.reports)
        notes = f"Here {escaped(meaning)}. {latency}" if meaning else latency
        if of_teacher := guessing_teacher_note(facts.reports, facts.chance, facts.settings):
            notes = f"{escaped(of_teacher)}\n\n{notes}"
        return f"{where}{markdown_table(facts.reports, facts.chance)}\n\n{notes}"
    rows = [(escaped(name), f"{value:.4g}") for name, value in facts.metrics.items()]
    return where + table_of([("metric", "value"), *rows]) if rows else ""


def _balance(facts: CardFacts) -> str:
    figure = f"![λ and what it was computed from, over the steps]({FIGURE})"
    explanation = "\n".join(map(escaped, explain_lambda(facts.log_history).splitlines()))
    return f"{figure}\n\n{explanation}" if facts.log_history else ""


def _labels(facts: CardFacts) -> str:
    if facts.label_quality is None:
        return ""
    words = escaped(explain_quality(facts.label_quality))
    return f"In the training examples: {words}\n\n{quality_table(facts.label_quality)}"


def _training(facts: CardFacts) -> str:
    plain = shown_settings(facts.settings)
    settings = code_block(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), "yaml")
    folded = f"<details><summary>All settings</summary>\n\n{settings}\n\n</details>"
    parts = [folded] if plain else []
    if facts.command:
        parts.append(f"With these settings in `student.yaml`:\n\n{code_block(facts.command, 'bash')}")
    if facts.versions:
        parts.append(
            f"Written with {escaped(', '.join(f'{name} {version}' for name, version in facts.versions.items()))}."
        )
    return "\n\n".join(parts)


def shown_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, as plain JSON values without folders: an enumeration is its text."""
    given = without_folders({name: value for name, value in settings.items() if value not in (None, [], {})})
    return cast(dict[str, Any], json.loads(json.dumps(given)))


def without_folders(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for readers, who lack the folders: absolute paths are shortened to the last part.

    Args:
        settings: JSON values. Paths in lists and mappings, keys among them, are shortened too.
    """
    return {name: value if name.endswith(_NO_PATHS) else _shortened(value) for name, value in settings.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_shortened(key): _shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def origin_of(name: str, bundled: Collection[str]) -> Origin:
    """The origin of a `teacher`, `student` or `dataset` setting: the Hub, unless such a file or folder exists."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return Origin(name, on_hub=False)
    return Origin(name, on_hub=name not in bundled and not Path(name).exists())
