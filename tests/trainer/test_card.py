"""What goes from a run into its card."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from helpers.small_jobs import job, settings, token_bert
from helpers.small_runs import config, examples, make_trainer, models
from helpers.tiny import tiny_bert
from helpers.tiny_images import WIDE, tiny_classifier
from helpers.tiny_spans import span_bert
from huggingface_hub import ModelCard
from transformers import EvalPrediction

from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.trainer.card import facts_of_trainer
from hf_kd_lambda.trainer.trainer import DistillationTrainer

PATHS = ("teacher", "train_file", "validation_file", "test_file")


def test_the_settings_in_a_jobs_card_are_those_that_it_ran_with(tmp_path, monkeypatch):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score"}
    best |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    rule = {"lambda_rule": "evidence", "lambda_rule_kwargs": '{"gamma": 0.5}', "learning_rate": 3e-5}
    job(settings(tmp_path, max_eval_samples=30, **best, **rule)).run()
    text = ModelCard.load(tmp_path / "out" / "README.md").text
    assert "On the random sample of the test split (30 examples)" in text
    monkeypatch.chdir(tmp_path)  # paths in the card are without the folders of the machine
    Path("student.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    models, data, args = parse(["student.yaml", "--use_cpu", "--output_dir", "again"])
    again = json.loads(json.dumps(DistillationJob(models, data, args).student_settings))
    before = json.loads(Path("out", "run.json").read_text())["settings"]
    assert again == before | {name: Path(before[name]).name for name in PATHS}


def test_a_trainer_without_a_job_writes_its_card_too(tmp_path):
    def accuracy(evaluation: EvalPrediction) -> dict[str, float]:
        return {"accuracy": float((evaluation.predictions.argmax(-1) == evaluation.label_ids).mean())}

    teacher, student = models()
    trainer = make_trainer(
        config(tmp_path / "student"), teacher, student, examples(), eval_dataset=examples(16), compute_metrics=accuracy
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.create_model_card(
        license="mit",
        tags="reviews",
        finetuned_from="google/bert_uncased_L-4_H-512_A-8",
        dataset_tags="nyu-mll/glue",
        dataset_args="sst2",
    )
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert (tmp_path / "student" / "lambda.png").read_bytes().startswith(b"\x89PNG")
    assert card.data.license == "mit"
    assert card.data.tags == ["knowledge-distillation", "hf-kd-lambda", "reviews"]
    assert card.data.base_model == ["google/bert_uncased_L-4_H-512_A-8"]
    (result,) = card.data.eval_results
    assert result.dataset_config == "sst2"
    assert result.metric_value == pytest.approx(metrics["eval_accuracy"], abs=1e-4)
    assert "# student\n" in card.text
    assert f"| teacher_agreement | {metrics['eval_teacher_agreement']:.4g} |" in card.text
    assert "runtime" not in card.text
    shown = yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0])
    assert shown["lambda_rule"] == "adaptive"
    assert shown["learning_rate"] == trainer.args.learning_rate


def test_a_trainer_that_did_not_train_yet_has_a_card(tmp_path):
    teacher, student = models()
    make_trainer(config(tmp_path), teacher, student, examples()).create_model_card(model_name="untrained")
    card = ModelCard.load(tmp_path / "README.md")
    assert "# untrained\n" in card.text
    assert "## Results" not in card.text


@pytest.mark.parametrize(
    ("student", "task"),
    [
        (lambda: tiny_bert(3), "text-classification"),
        (token_bert, "token-classification"),
        (span_bert, "question-answering"),
        (lambda: tiny_classifier(WIDE), "image-classification"),
    ],
)
def test_a_card_has_the_task_of_its_student(tmp_path, student, task):
    data = Dataset.from_dict({"input_ids": [[2, 5, 3]] * 2, "labels": [0, 1]})
    trainer = DistillationTrainer(student(), config(tmp_path), teacher=student(), train_dataset=data)
    trainer.create_model_card()
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == task


@pytest.mark.parametrize("auto_map", [{}, {"AutoModelForSequenceClassification": "own.Classifier"}])
def test_a_card_shows_whether_its_student_has_code_of_its_own(tmp_path, auto_map):
    trainer = make_trainer(config(tmp_path), *models(), examples(8))
    trainer.model.config.auto_map = auto_map
    assert facts_of_trainer(trainer, []).own_code is bool(auto_map)


def test_a_card_has_the_scores_on_each_evaluation_dataset(tmp_path):
    evaluated = {"matched": examples(8), "mismatched": examples(16)}
    trainer = make_trainer(config(tmp_path), *models(), examples(8), eval_dataset=evaluated)
    trainer.evaluate()
    metrics = facts_of_trainer(trainer, []).metrics
    assert {"matched_loss", "mismatched_loss"} <= metrics.keys()


@pytest.mark.parametrize(("evaluates_again", "expected"), [(False, 0.9), (True, 0.4)])
def test_a_card_has_the_scores_of_the_checkpoint_that_was_loaded(tmp_path, evaluates_again, expected):
    args = config(tmp_path, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True)
    trainer = make_trainer(args, *models(), examples(8), eval_dataset=examples(8))
    trainer.state.best_global_step = 1
    trainer.state.log_history = [
        {"step": 1, "eval_score": 0.9},
        {"step": 2, "eval_score": 0.5},
        {"step": 2, "train_runtime": 3.0},
        *[{"step": 2, "eval_score": 0.4}] * evaluates_again,
    ]
    assert facts_of_trainer(trainer, []).metrics == {"score": expected}
