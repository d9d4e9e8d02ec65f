"""Whole jobs on language models."""

import pytest
from helpers.small_jobs import job, text_settings
from helpers.tiny_lm import (
    text_tokenizer,
    tiny_lm,
)
from transformers import AutoModelForCausalLM


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_job_trains_a_teacher_and_a_student_of_its_layers(tmp_path, suffix):
    whole = job(text_settings(tmp_path, suffix, student_without_kd=True))
    whole.check()
    teacher, _, student = whole.run()
    for report in (teacher, student):
        assert report.metrics["accuracy"] > 0.4, "the sentences have a grammar to be learned"
        assert 1 < report.metrics["perplexity"] < 20
    assert 0.4 < student.metrics["teacher_agreement"] <= 1
    assert "teacher_agreement" not in teacher.metrics
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.num_hidden_layers == 2
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-generation" in card
    assert "| perplexity |" in card, "which is no percentage"
    assert f"| {student.metrics['perplexity']:.1f} |" in card


def test_another_vocabulary_is_refused_before_training(tmp_path):
    given = text_settings(tmp_path)
    student, tokenizer = tiny_lm(vocab_size=96), text_tokenizer()
    tokenizer.add_tokens(["film2"])
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    with pytest.raises(
        ValueError, match=r"tokenizer \(.*, 95 tokens\) and the student's \(.*, 96\) do not make the same tokens"
    ):
        job({**given, "student_layers": None, "student": str(tmp_path / "student")}).check()


def test_blocks_longer_than_the_models_positions_are_refused(tmp_path):
    given = text_settings(tmp_path, max_length=64)
    tiny_lm(max_position_embeddings=32).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ValueError, match="the teacher reads 32 tokens at most: set max_length to 32 or less"):
        job(given).check()
