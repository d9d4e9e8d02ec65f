"""Whole jobs on language models."""

import json

import pytest
from helpers.small_jobs import chat_settings, job, text_settings
from helpers.tiny_lm import text_tokenizer, tiny_lm
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_kd_lambda.cli import main
from hf_kd_lambda.studies.comparison.plan import arguments


@pytest.mark.parametrize("suffix", ["txt", pytest.param("jsonl", marks=pytest.mark.slow)])
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


def test_a_job_learns_what_the_assistant_says_alone(tmp_path):
    settings = chat_settings(tmp_path, cache_top_logits=8, teacher_cache_dir=str(tmp_path / "cache"))
    main(["distill", *arguments(settings)])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for model in results["models"]:
        assert model["metrics"]["accuracy"] > 0.95, "the answer is always the same; of all tokens a third is at random"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "worst good"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    (ids,) = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(ids[inputs["input_ids"].shape[1] :]) == "it is a film [SEP]"


def test_conversations_without_a_chat_template_are_refused(tmp_path):
    settings = chat_settings(tmp_path)
    text_tokenizer().save_pretrained(tmp_path / "pretrained")
    (tmp_path / "pretrained" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="pretrained' has no chat template, and the examples are messages"):
        job(settings).check()


def test_the_longest_example_decides_whether_a_model_can_read_them(tmp_path):
    settings = chat_settings(tmp_path, max_length=64)
    tiny_lm(max_position_embeddings=8).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ValueError, match="the teacher reads 8 tokens at most"):
        job(settings).check()
