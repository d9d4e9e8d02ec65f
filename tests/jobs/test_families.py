"""Models of other families as teachers and students: whole jobs, and what they leave behind."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_jobs import job, settings, text_settings, token_settings
from helpers.tiny import VOCABULARY, save_checkpoint, tiny_bert, tiny_tokenizer
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertTokenizerFast,
    DistilBertTokenizerFast,
    PreTrainedTokenizerBase,
    RobertaTokenizerFast,
    pipeline,
    set_seed,
)

DISTILBERT = {"model_type": "distilbert", "n_layers": 2, "dim": 32, "n_heads": 2, "hidden_dim": 64}
NARROW = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
ELECTRA = {"model_type": "electra", "num_hidden_layers": 2, "embedding_size": 16, **NARROW}
MODERNBERT = {"model_type": "modernbert", "num_hidden_layers": 2, "local_attention": 4, **NARROW}
ROBERTA = {"model_type": "roberta", "num_hidden_layers": 4, "max_position_embeddings": 64, **NARROW}


def word_piece(folder: Path) -> BertTokenizerFast:
    """BERT's kind of tokenizer, which needs no reviews to learn from."""
    return tiny_tokenizer()


def byte_pairs(folder: Path) -> RobertaTokenizerFast:
    """RoBERTa's kind of tokenizer, whose merges are learned from the reviews."""
    settings(folder)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained = ByteLevelBPETokenizer()
    trained.train([str(folder / "train.csv")], vocab_size=320, min_frequency=1, special_tokens=special)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return RobertaTokenizerFast(vocab=model["vocab"], merges=merges, model_max_length=60)


def save(folder: Path, tokenizer: PreTrainedTokenizerBase, **fields: Any) -> str:
    """Save a classifier of random weights with its tokenizer; return its folder."""
    set_seed(0)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = AutoConfig.for_model(**fields, **special, vocab_size=len(tokenizer), num_labels=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


BRIEF = {"teacher_epochs": 1, "max_steps": 2}
"""Settings of jobs whose student's family is trained longer in another job."""


def small_job(folder: Path, **changed: Any) -> Any:
    """A job in which untrained students learn the reviews, too."""
    longer = {"learning_rate": 5e-3, "num_train_epochs": 12, "lambda_interval": 1, "student_layers": None}
    return job(settings(folder, **{**longer, **changed}))


def assert_distilled(whole: Any, folder: Path) -> Any:
    """Run a job: its student learns, λ moves, and it leaves what `assert_saved` asks for; return the student."""
    saved = assert_saved(whole, folder)
    models = json.loads((folder / "out" / "results.json").read_text())["models"]
    teacher, student = (model["metrics"] for model in models)
    assert teacher["accuracy"] > 0.8
    assert student["accuracy"] > 0.6, "a third of the reviews is of each kind"
    assert student["teacher_agreement"] > 0.6
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    lambdas = [entry["lambda"] for entry in history if "lambda" in entry]
    assert max(lambdas) > 1.02 * min(lambdas)
    return saved


def assert_saved(whole: Any, folder: Path) -> Any:
    """Run a job: the predictions of both saved models match the report; return the student."""
    whole.check()
    teacher, student = (report.metrics for report in whole.run())
    with (folder / "test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds, texts = [row["kind"] for row in rows], [row["review"] for row in rows]
    predicted, taught = predictions(folder / "out", texts), predictions(folder / "out" / "teacher", texts)
    assert share(predicted, kinds) == pytest.approx(student["accuracy"])
    assert share(taught, kinds) == pytest.approx(teacher["accuracy"])
    assert share(predicted, taught) == pytest.approx(student["teacher_agreement"])
    assert [found["label"] for found in pipeline("text-classification", str(folder / "out"))(texts)] == predicted
    saved = AutoModelForSequenceClassification.from_pretrained(folder / "out")
    trainer = whole.make_trainer(whole.load_teacher(), saved)  # in which the teacher reads columns of a batch
    assert trainer.evaluate()["eval_teacher_agreement"] == pytest.approx(student["teacher_agreement"])
    return saved


@torch.no_grad()
def predictions(folder: Path, texts: list[str]) -> list[str]:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    return [model.config.id2label[label] for label in model(**tokens).logits.argmax(-1).tolist()]


def share(found: list[str], expected: list[str]) -> float:
    return sum(one == other for one, other in zip(found, expected, strict=True)) / len(found)


# --- checkpoints


@pytest.mark.parametrize("tokenizer_class", [BertTokenizerFast, DistilBertTokenizerFast])
def test_bert_teaches_a_distilbert_whose_tokenizer_may_give_no_token_types(tmp_path, tokenizer_class):
    vocabulary = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = tokenizer_class(vocab=vocabulary, model_max_length=64)
    kd_losses = {"soft_targets": 1.0, "hidden_cosine": 1.0}
    shared = "token_type_ids" in tokenizer.model_input_names
    student = save(tmp_path / "student", tokenizer, **DISTILBERT)
    whole = small_job(tmp_path, student=student, kd_losses=kd_losses, **(BRIEF if shared else {}))
    assert ("teacher_token_type_ids" in whole.tokens["train"].column_names) != shared
    saved = assert_saved(whole, tmp_path) if shared else assert_distilled(whole, tmp_path)
    assert saved.config.model_type == "distilbert"


def test_roberta_teaches_a_roberta_of_fewer_layers(tmp_path):
    tokenizer = byte_pairs(tmp_path)
    teacher = save(tmp_path / "teacher", tokenizer, **ROBERTA)
    student = save(tmp_path / "student", tokenizer, **{**ROBERTA, "num_hidden_layers": 2})
    whole = small_job(tmp_path, teacher=teacher, student=student)
    assert "teacher_input_ids" not in whole.tokens["train"].column_names
    assert assert_distilled(whole, tmp_path).config.num_hidden_layers == 2


def test_modernbert_teaches_its_layers(tmp_path):
    teacher = save(tmp_path / "teacher", byte_pairs(tmp_path), **{**MODERNBERT, "num_hidden_layers": 4})
    student = assert_distilled(small_job(tmp_path, teacher=teacher, student_layers=[0, 3, 2]), tmp_path)
    assert student.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]


def test_roberta_teaches_a_bert_of_other_tokens(tmp_path):
    student = save_checkpoint(tiny_bert(3, layers=2), tmp_path / "student")
    whole = small_job(tmp_path, teacher=save(tmp_path / "teacher", byte_pairs(tmp_path), **ROBERTA), student=student)
    row = whole.tokens["train"][0]
    assert row["teacher_input_ids"] != row["input_ids"]
    assert row["token_type_ids"]
    assert "teacher_token_type_ids" not in row
    assert assert_distilled(whole, tmp_path).config.model_type == "bert"


# --- new students, which read the teacher's tokens


@pytest.mark.parametrize(
    "architecture",
    [ELECTRA, *(pytest.param(fields, marks=pytest.mark.slow) for fields in (DISTILBERT, MODERNBERT))],
    ids=lambda fields: fields["model_type"],
)
def test_bert_teaches_a_new_model(tmp_path, architecture):
    learns = architecture is ELECTRA  # the others do in the jobs above
    whole = small_job(tmp_path, student_architecture=json.dumps(architecture), **({} if learns else BRIEF))
    config = (assert_distilled if learns else assert_saved)(whole, tmp_path).config
    assert config.model_type == architecture["model_type"]
    assert (config.vocab_size, config.pad_token_id, config.eos_token_id) == (len(VOCABULARY), 0, None)


def test_roberta_teaches_a_new_bert_its_byte_pairs(tmp_path):
    tokenizer = byte_pairs(tmp_path)
    bert = {"model_type": "bert", "num_hidden_layers": 2, **NARROW}
    teacher = save(tmp_path / "teacher", tokenizer, **ROBERTA)
    whole = small_job(tmp_path, teacher=teacher, student_architecture=json.dumps(bert), **BRIEF)
    student = assert_saved(whole, tmp_path)
    special = [getattr(student.config, f"{name}_token_id") for name in ("pad", "bos", "eos")]
    assert special == [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [1, 0, 2]


def test_token_types_of_pairs_reach_the_model_that_takes_them(tmp_path):
    pairs = {"text_pair_column": "kind", "label_column": "stars", "max_steps": 1}
    whole = small_job(tmp_path, student_architecture=json.dumps(DISTILBERT), **pairs)
    teacher = whole.loader.teacher(new_head=True)
    student, seen = whole.load_student(teacher), defaultdict(list)
    for who, model in (("teacher", teacher), ("student", student)):
        model.register_forward_pre_hook(lambda _, args, inputs, who=who: seen[who].append(inputs), with_kwargs=True)
    whole.make_trainer(teacher, student).train()
    assert seen["teacher"]
    assert seen["student"]
    assert all(inputs["token_type_ids"].any() for inputs in seen["teacher"])
    assert not any("token_type_ids" in inputs for inputs in seen["student"])


def test_a_new_model_tags_words(tmp_path):
    new = {"student_layers": None, "student_architecture": json.dumps(DISTILBERT)}
    longer = {"learning_rate": 5e-3, "num_train_epochs": 12}
    whole = job(token_settings(tmp_path, **new, **longer))
    whole.check()
    teacher, student = (report.metrics for report in whole.run())
    assert teacher["f1"] > 0.8
    assert student["f1"] > 0.6
    assert student["teacher_agreement"] > 0.8
    saved = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert (saved.config.model_type, saved.config.num_labels) == ("distilbert", 5)


def test_a_new_language_model_begins_and_ends_texts_as_its_teacher_does(tmp_path):
    llama = {"model_type": "llama", "num_hidden_layers": 1, "num_key_value_heads": 1, **NARROW}
    new = {"student_layers": None, "student_architecture": json.dumps(llama)}
    whole = job(text_settings(tmp_path, **new, learning_rate=5e-3, num_train_epochs=4))
    whole.check()
    student = whole.run()[-1].metrics
    assert student["accuracy"] > 0.4, "the sentences have a grammar to be learned"
    assert student["teacher_agreement"] > 0.4
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.config.vocab_size == len(tokenizer) == len(VOCABULARY)
    assert saved.config.pad_token_id == tokenizer.pad_token_id == 0
    assert saved.config.eos_token_id == tokenizer.eos_token_id == 3
    assert saved.generation_config.eos_token_id in (3, [3])  # the Trainer of some versions makes a list of it


def test_a_student_of_too_few_positions_is_refused_before_training(tmp_path):
    short = {"model_type": "bert", "num_hidden_layers": 1, "max_position_embeddings": 4, **NARROW}
    message = (
        r"student: a BertForSequenceClassification cannot read the longest example, of \d+ tokens: lower max_length"
    )
    with pytest.raises(ValueError, match=message):
        small_job(tmp_path, student_architecture=json.dumps(short)).check()


def test_a_teacher_may_have_more_embeddings_than_tokens(tmp_path):
    given = settings(tmp_path, student_layers=None, student_architecture=json.dumps(DISTILBERT))
    save_checkpoint(tiny_bert(2, vocab_size=len(VOCABULARY) + 5), tmp_path / "pretrained")
    whole = job(given)
    whole.check()
    assert whole.load_student(whole.loader.teacher(new_head=True)).config.vocab_size == len(VOCABULARY) + 5


# --- what is refused before training


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"student_layers": None, "student_architecture": {**DISTILBERT, "vocab_size": 50}},
            f"student_architecture: vocab_size=50 differs from the teacher's {len(VOCABULARY)}, .*: leave vocab_size",
        ),
        (
            {"student_layers": None, "student_architecture": {"model_type": "distillbert"}},
            "student_architecture=.*unknown model_type 'distillbert': did you mean 'distilbert'",
        ),
        (
            {"student_layers": None, "student_architecture": {**DISTILBERT, "layers": 2}},
            "student_architecture=.*unknown field of distilbert 'layers'",
        ),
        (
            {"teacher": None, "teacher_architecture": DISTILBERT},
            "teacher_architecture=.*distilbert.* has no tokenizer: give a checkpoint as teacher instead",
        ),
    ],
    ids=["vocabulary", "kind of model", "field", "teacher"],
)
def test_an_architecture_that_cannot_read_the_tokens(tmp_path, given, message):
    encoded = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in given.items()}
    with pytest.raises(ValueError, match=message):
        job(settings(tmp_path, **encoded)).check()
    assert not (tmp_path / "out" / "teacher" / "model.safetensors").exists()
