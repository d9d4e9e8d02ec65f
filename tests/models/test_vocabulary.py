"""Padded vocabularies of one tokenizer."""

import copy

import torch
from helpers.small_jobs import job, settings, text_settings
from helpers.tiny import VOCABULARY, save_checkpoint, tiny_bert
from helpers.tiny_lm import text_tokenizer, tiny_lm

from hf_kd_lambda.models.vocabulary import align_vocabularies

TOKENS = len(VOCABULARY)


def padded(model, size):
    """A copy with more embeddings, as padding for fast matrix products."""
    model = copy.deepcopy(model)
    model.resize_token_embeddings(size)
    return model


def test_larger_models_are_cut_and_their_outputs_stay():
    model = tiny_bert(num_labels=3).eval()
    ids = torch.tensor([[2, 7, 9, 3]])
    larger = padded(model, TOKENS + 13).eval()
    align_vocabularies([model, larger], TOKENS)
    assert larger.config.vocab_size == model.config.vocab_size == TOKENS
    assert torch.equal(larger(ids).logits, model(ids).logits)


def test_tokens_are_never_cut():
    model, smaller = tiny_bert(num_labels=3), padded(tiny_bert(num_labels=3), TOKENS - 5)
    align_vocabularies([model, smaller], TOKENS)
    assert (model.config.vocab_size, smaller.config.vocab_size) == (TOKENS, TOKENS - 5)


def test_a_student_of_another_padding_learns_a_language_from_the_command_line(tmp_path):
    tokens = len(text_tokenizer())
    for name, size in (("teacher", tokens + 11), ("student", tokens + 3)):
        torch.manual_seed(1)
        padded(tiny_lm(), size).save_pretrained(tmp_path / name)
        text_tokenizer().save_pretrained(tmp_path / name)
    given = {"teacher": str(tmp_path / "teacher"), "student": str(tmp_path / "student"), "student_layers": None}
    started = job(text_settings(tmp_path, **given, teacher_finetune=False))
    started.check()
    teacher = started.loader.teacher()
    student = started.load_student(teacher)
    assert teacher.config.vocab_size == student.config.vocab_size == tokens + 3


def test_a_classifier_of_another_padding_passes_the_check(tmp_path):
    student = save_checkpoint(padded(tiny_bert(num_labels=3), TOKENS + 5), tmp_path / "student")
    started = job(settings(tmp_path, student=student, student_layers=None))
    started.check()
    assert "teacher_input_ids" not in started.tokens["train"].column_names
