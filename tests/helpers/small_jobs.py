"""Whole jobs small enough for tests: made-up reviews in files, and a tiny teacher that learns them in a few steps."""

import csv
import json
from itertools import product
from pathlib import Path

import torch
from helpers.tiny import SIZES, save_checkpoint, tiny_bert
from helpers.tiny_lm import text_tokenizer, tiny_lm
from helpers.tiny_spans import span_bert
from transformers import BertConfig, BertForTokenClassification, set_seed

from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.studies.comparison.plan import arguments

WORDS = {"praise": ["best", "good", "great"], "shrug": ["a", "film", "is"], "rant": ["bad", "dull", "worst"]}
SET_BY_COMPARISON = {"output_dir": None, "logging_steps": None}
"""What a job of a comparison leaves out."""
STARS = {"praise": 4.5, "shrug": 2.5, "rant": 0.5}


def write_reviews(folder: Path) -> dict[str, str]:
    """Write csv files of reviews, their kind (a name) and stars (a number); return the settings that read them."""
    texts = [(kind, f"{word} {word} {end}") for kind, words in WORDS.items() for word, end in product(words, "abcd")]
    settings = {}
    for split, copies in (("train", 2), ("validation", 1), ("test", 1)):
        path = folder / f"{split}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "kind", "stars"])
            writer.writerows((text, kind, STARS[kind]) for kind, text in texts * copies)
        settings[f"{split}_file"] = str(path)
    return settings | {"text_column": "review", "label_column": "kind"}


def settings(folder: Path, **changed: object) -> dict[str, object]:
    """Settings of a job of seconds: a teacher fine-tuned first, and a student of two of its four layers.

    Args:
        folder: for the files, the teacher and the output.
        changed: settings to add or replace; None removes one.
    """
    set_seed(0)
    return {
        "teacher": save_checkpoint(tiny_bert(num_labels=2), folder / "pretrained"),
        "teacher_finetune": True,
        "teacher_epochs": 6,
        "teacher_learning_rate": 5e-3,
        "student_layers": [0, 3],
        **write_reviews(folder),
        "max_length": 16,
        "output_dir": str(folder / "out"),
        "learning_rate": 2e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 12,
        "per_device_eval_batch_size": 64,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "precision": "fp32",
        "use_cpu": True,
        **changed,
    }


# --- tokens

VERDICTS = {"best": "GOOD", "good": "GOOD", "great": "GOOD", "bad": "BAD", "dull": "BAD", "worst": "BAD"}
TOKEN_NAMES = ["B-BAD", "B-GOOD", "I-BAD", "I-GOOD", "O"]


def write_tokens(folder: Path) -> dict[str, str]:
    """Sentences in which verdicts are entities, two words long where `very` comes first; settings that read them."""
    rows = []
    for noun, word, very in product(("film", "xylophone"), VERDICTS, (False, True)):
        words = ["the", noun, "is", *["very"] * very, word]
        labels = ["O"] * 3 + ([f"B-{VERDICTS[word]}", f"I-{VERDICTS[word]}"] if very else [f"B-{VERDICTS[word]}"])
        rows.append({"tokens": words, "tags": labels})
    files = {}
    for split, copies in (("train", 3), ("validation", 1), ("test", 1)):
        path = folder / f"{split}.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows * copies))
        files[f"{split}_file"] = str(path)
    return files


def token_bert(layers=4, num_labels=5, **config):
    return BertForTokenClassification(BertConfig(**SIZES, num_hidden_layers=layers, num_labels=num_labels, **config))


def token_settings(folder: Path, **changed: object) -> dict[str, object]:
    """Settings of a job of seconds that finds verdicts, as `settings`."""
    defaults = settings(folder)
    own = {
        "problem": "token-classification",
        "teacher": save_checkpoint(token_bert(), folder / "pretrained"),
        "teacher_epochs": 12,
        "num_train_epochs": 4,
        "text_column": None,
        "label_column": "tags",
        "teacher_cache_dir": str(folder / "cache"),
    }
    return {**defaults, **own, **write_tokens(folder), **changed}


# --- language models

SENTENCES = ["the film is good", "this is a very bad film", "it is not great", "a dull film is the worst"]


def text_settings(folder: Path, suffix: str = "txt", **changed: object) -> dict[str, object]:
    """Settings of a job of seconds on a language model and files of sentences, as `settings`."""
    torch.manual_seed(0)
    teacher = tiny_lm()
    teacher.save_pretrained(folder / "pretrained")
    text_tokenizer().save_pretrained(folder / "pretrained")
    files = {}
    for name, copies in (("train", 40), ("validation", 10)):
        path = folder / f"{name}.{suffix}"
        lines = [sentence if suffix == "txt" else f'{{"text": "{sentence}"}}' for sentence in SENTENCES * copies]
        path.write_text("\n".join(lines) + "\n")
        files[f"{name}_file"] = str(path)
    return {
        "problem": "text-generation",
        "teacher": str(folder / "pretrained"),
        "teacher_finetune": True,
        "teacher_epochs": 6,
        "teacher_learning_rate": 5e-3,
        "student_layers": [0, 3],
        **files,
        "max_length": 16,
        "output_dir": str(folder / "out"),
        "learning_rate": 2e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "score",
        "logging_steps": 5,
        "report_to": "none",
        "disable_tqdm": True,
        "precision": "fp32",
        "use_cpu": True,
        **changed,
    }


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}: {{ message['content'] }}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def chat_settings(folder: Path, **changed: object) -> dict[str, object]:
    """Settings of a job of seconds on conversations: a word that cannot be guessed, and its repetition."""
    defaults = text_settings(folder)
    tokenizer = text_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder / "pretrained")
    chats = [
        [{"role": "user", "content": f"{word} {other}"}, {"role": "assistant", "content": "it is a film"}]
        for word, other in product(["bad", "best", "good", "great", "worst"], repeat=2)
    ]
    path = folder / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"messages": messages}) for messages in chats * 2))
    files = dict.fromkeys(("train_file", "validation_file"), str(path))
    return {**defaults, **files, "teacher_epochs": 3, **changed}


def job(settings: dict[str, object]) -> DistillationJob:
    """The job that the command line starts."""
    return DistillationJob(*parse(arguments(settings)))


# --- questions


def write_questions(folder: Path, unanswerable: bool = False) -> dict[str, str]:
    """Contexts with a verdict, which is the answer; without one, the question is unanswerable. Not all as rows."""
    rows = []
    for noun, word, very in product(("film", "xylophone"), VERDICTS, (False, True)):
        answer = f"{'very ' * very}{word}"
        context = f"this is it, the {noun} is {answer}, it is a {noun}"
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        rows.append({"context": context, "question": "good or bad?", "answers": answers})
    if unanswerable:
        context = "this is it, the film is the film, it is a film"
        rows += [{"context": context, "question": "good or bad?", "answers": {"text": [], "answer_start": []}}] * 8
    files = {}
    for split, copies in (("train", 2), ("validation", 1), ("test", 1)):
        path = folder / f"{split}.json{'l' * (split == 'test')}"
        lines = "\n".join(json.dumps(row) for row in rows * copies)
        path.write_text(lines if split == "test" else json.dumps(_as_squad(rows * copies)))
        files[f"{split}_file"] = str(path)
    return files


def _as_squad(rows: list[dict]) -> dict[str, object]:
    """Rows as SQuAD 2.0 was published."""
    paragraphs = []
    for row in rows:
        answers = [
            dict(zip(row["answers"], values, strict=True)) for values in zip(*row["answers"].values(), strict=True)
        ]
        question = {"question": row["question"], "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": row["context"], "qas": [question]})
    return {"version": "v2.0", "data": [{"title": "films", "paragraphs": paragraphs}]}


def question_settings(folder: Path, unanswerable: bool = False, **changed: object) -> dict[str, object]:
    """Settings of a job of seconds that answers questions, in windows of which some lack the answer, as `settings`."""
    defaults = settings(folder)
    own = {
        "problem": "question-answering",
        "teacher": save_checkpoint(span_bert(), folder / "pretrained"),
        "teacher_epochs": 12,
        "num_train_epochs": 4,
        "text_column": None,
        "label_column": None,
        "max_length": 20,
        "doc_stride": 4,
        "teacher_cache_dir": str(folder / "cache"),
    }
    return {**defaults, **own, **write_questions(folder, unanswerable), **changed}
