"""Language models: each position predicts the next label, in both losses, in λ and in evaluation."""

import copy
import math

import pytest
import torch
from helpers import reference
from helpers.small_jobs import job
from helpers.small_runs import BATCH, LEARNING_RATE, assert_same_run, config, flat, logged
from helpers.tiny import tiny_bert
from helpers.tiny_lm import (
    language_models,
    lm_trainer,
    next_token_losses,
    padded_batches,
    rows,
    text_tokenizer,
    tiny_lm,
)
from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling
from transformers.loss.loss_utils import ForCausalLMLoss

from hf_kd_lambda.balancing.votes import Evidence, side_counts
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.tasks.metrics.next_token import next_token_metrics, next_token_predictions
from hf_kd_lambda.trainer.trainer import DistillationTrainer

MODEL_TYPES = ["llama", "gpt2"]


def reference_run(monkeypatch, student, teacher, data, **settings):
    monkeypatch.setattr(reference, "losses", next_token_losses)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=LEARNING_RATE)
    return reference.run(student, teacher, padded_batches(data), optimizer, **settings)


# --- training


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_run_equals_the_plain_loop_over_whole_batches(tmp_path, monkeypatch, model_type, accumulation):
    teacher, student = language_models(model_type)
    twin = copy.deepcopy(student)
    steps = reference_run(monkeypatch, twin, teacher, rows())
    batch = {"per_device_train_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    trainer = lm_trainer(tmp_path, teacher, student, **batch)
    trainer.train()
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)


def test_steps_between_measurements_equal_the_plain_loop(tmp_path, monkeypatch):
    teacher, student = language_models("gpt2")
    twin = copy.deepcopy(student)
    steps = reference_run(monkeypatch, twin, teacher, rows(), interval=3)
    trainer = lm_trainer(
        tmp_path, teacher, student, lambda_interval=3, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    trainer.train()
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps, different_lambdas=2)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_task_loss_is_the_models_own(tmp_path, model_type):
    teacher, student = language_models(model_type)
    (batch, *_) = padded_batches(rows())
    expected = copy.deepcopy(student)(**batch).loss.item()
    trainer = lm_trainer(tmp_path, teacher, student, max_steps=1)
    trainer.train()
    assert logged(trainer.state.log_history, "task_loss") == [pytest.approx(expected, rel=1e-6)]


def test_the_collator_of_transformers_makes_the_labels(tmp_path):
    teacher, student = language_models()
    data = rows().remove_columns("labels")
    collator = DataCollatorForLanguageModeling(text_tokenizer(), mlm=False)
    expected = copy.deepcopy(student)(**collator(list(data.select(range(BATCH))))).loss.item()
    args = config(tmp_path, max_steps=1)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=data, data_collator=collator)
    trainer.train()
    assert logged(trainer.state.log_history, "task_loss") == [pytest.approx(expected, rel=1e-6)]


def test_a_task_loss_of_ones_own_shifts_the_labels_itself(tmp_path):
    def own(outputs, labels, num_items_in_batch):
        return ForCausalLMLoss(outputs.logits, labels, outputs.logits.shape[-1], num_items_in_batch)

    runs = []
    for kwargs in ({}, {"compute_loss_func": own}):
        trainer = lm_trainer(tmp_path, *language_models(), kwargs=kwargs, gradient_accumulation_steps=2)
        trainer.train()
        runs.append(flat(trainer.model))
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-7)


def test_labels_that_a_collator_has_shifted_stay_as_they_are(tmp_path):
    trainer = lm_trainer(tmp_path, *language_models())
    collate = trainer.data_collator.collate.collate

    def shifted(examples):
        return {**collate(examples), "shift_labels": torch.tensor([[7, -100]])}

    trainer.data_collator.collate.collate = shifted
    batch = trainer.data_collator(list(rows(1)))
    assert batch["shift_labels"].tolist() == [[7, -100]]


def test_tied_embeddings_stay_tied(tmp_path):
    trainer = lm_trainer(tmp_path, *language_models("gpt2"), optim="adamw_torch")
    trainer.train()
    assert trainer.model.lm_head.weight is trainer.model.transformer.wte.weight


EACH = ["reverse_kl", "jensen_shannon", "hidden_mse", "attention_kl", "relations", "value_relations"]


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_each_kd_loss_alone_trains_and_falls(tmp_path, model_type, name):
    hyper = {"relation_heads": 4} if "relations" in name else 1.0
    rule = {"lambda_rule": "fixed", "kd_weight": 1.0, "optim": "adamw_torch", "learning_rate": 5e-3}
    trainer = lm_trainer(tmp_path, *language_models(model_type), kd_losses={name: hyper}, num_train_epochs=5, **rule)
    trainer.train()
    found = logged(trainer.state.log_history, "kd_loss")
    assert sum(found[-6:]) < 0.9 * sum(found[:6])


def test_the_hidden_states_weigh_each_row_by_its_labels(tmp_path):
    teacher, student = language_models()
    twin, (batch, *_) = copy.deepcopy(student), padded_batches(rows())
    trainer = lm_trainer(tmp_path, teacher, student, kd_losses={"hidden_mse": 1.0}, max_steps=1)
    trainer.train()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours, theirs = (model(**inputs, output_hidden_states=True).hidden_states for model in (twin, teacher))
    items = batch["labels"][:, 1:].ne(-100).sum(-1)
    kept = batch["attention_mask"].bool()
    total = 0.0
    for one, other in ((1, 2), (2, 4)):
        squared = (ours[one] - theirs[other]).square().mean(-1)
        means = torch.stack([row[mask].mean() for row, mask in zip(squared, kept, strict=True)])
        total += (means * items).sum().item() / items.sum().item() / 2
    assert logged(trainer.state.log_history, "kd_loss") == [pytest.approx(total, rel=1e-5)]


def test_votes_are_counted_at_the_positions_before_the_labels(tmp_path):
    teacher, student = language_models()
    batch = next(iter(padded_batches(rows())))
    labels = batch.pop("labels")
    with torch.no_grad():
        ours, theirs = (model(**batch).logits[:, :-1] for model in (student, teacher.eval()))
    evidence = Evidence()
    evidence.update(side_counts(ours, theirs, labels[:, 1:]))
    trainer = lm_trainer(tmp_path, teacher, student, lambda_rule="evidence", lambda_rule_kwargs={"gamma": 1.0})
    trainer.train()
    odds = logged(trainer.state.log_history, "odds")
    assert odds[0] == pytest.approx(evidence.odds.item(), rel=1e-5)
    assert len(set(odds)) >= 4


# --- evaluation


def test_evaluation_weighs_tokens_alike_in_batches_of_any_size(tmp_path):
    teacher, student = language_models()
    data = rows(12)
    trainer = lm_trainer(tmp_path, teacher, student, per_device_eval_batch_size=5)
    metrics = trainer.evaluate(data)
    (batch,) = padded_batches(data, 12)
    task, kd = next_token_losses(student.eval(), teacher, batch)
    labels = batch.pop("labels")[:, 1:]
    ours, theirs = (model(**batch).logits[:, :-1].argmax(-1) for model in (student, teacher))
    agreement = (ours == theirs)[labels != -100].float().mean()
    for name, value in (("task_loss", task), ("kd_loss", kd), ("teacher_agreement", agreement)):
        assert metrics[f"eval_{name}"] == pytest.approx(value.item(), rel=1e-5)


def test_metrics_need_no_logits_of_a_whole_evaluation(tmp_path):
    teacher, student = language_models()
    data = rows(12)
    kept = {"compute_metrics": next_token_metrics, "preprocess_logits_for_metrics": next_token_predictions}
    trainer = lm_trainer(tmp_path, teacher, student, kwargs=kept, per_device_eval_batch_size=5)
    output = trainer.predict(data)
    assert [prediction.shape for prediction in output.predictions] == [output.label_ids.shape] * 2
    (batch,) = padded_batches(data, 12)
    labels = batch.pop("labels")[:, 1:]
    logits = student.eval()(**batch).logits[:, :-1][labels != -100]
    right = (logits.argmax(-1) == labels[labels != -100]).float().mean().item()
    task = torch.nn.functional.cross_entropy(logits, labels[labels != -100]).item()
    assert output.metrics["test_accuracy"] == output.metrics["test_score"] == pytest.approx(right)
    assert output.metrics["test_perplexity"] == pytest.approx(math.exp(task), rel=1e-5)


# --- refusals


def test_vocabularies_of_unlike_sizes_are_refused(tmp_path):
    teacher, student = tiny_lm(vocab_size=120), tiny_lm()
    message = r"predicts one of 120 tokens, the student one of 95, .* teacher.resize_token_embeddings\(95\)"
    with pytest.raises(ValueError, match=message):
        lm_trainer(tmp_path, teacher, student)
    teacher.resize_token_embeddings(95)
    lm_trainer(tmp_path, teacher, student)


def test_a_teacher_that_predicts_no_next_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the teacher, a BertForSequenceClassification, does not: give a teacher"):
        lm_trainer(tmp_path, tiny_bert(), tiny_lm())


def test_tokens_of_the_teachers_own_are_refused(tmp_path):
    data = rows(4)
    data = data.add_column("teacher_input_ids", data["input_ids"][:])
    with pytest.raises(ValueError, match="only teach what it says at the student's own positions"):
        lm_trainer(tmp_path, tiny_lm(), tiny_lm(), data)


def test_labels_of_a_classifier_mean_nothing_here(tmp_path):
    teacher = tiny_lm(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    lm_trainer(tmp_path, teacher, tiny_lm(id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1}))


def test_relation_heads_divide_the_width_of_the_keys_too(tmp_path):
    with pytest.raises(ValueError, match=r"relations: relation_heads=32 must divide .*\(16, 16\)"):
        lm_trainer(tmp_path, *language_models(), kd_losses={"relations": {"relation_heads": 32}})


def test_only_causal_models_are_causal():
    assert is_causal(tiny_lm())
    assert is_causal(tiny_lm("gpt2"))
    assert not is_causal(tiny_bert())


# --- students of layers


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mistral", "qwen2", "qwen3"])
def test_a_student_of_layers_is_the_teacher_without_the_others(tmp_path, model_type):
    torch.manual_seed(0)
    teacher = tiny_lm(model_type, initializer_range=0.3).eval()
    teacher.generation_config.max_new_tokens = 7
    student = student_from_layers(teacher, [0, 2])
    (batch, *_) = padded_batches(rows())
    layers = teacher.base_model.h if model_type == "gpt2" else teacher.base_model.layers
    del layers[3], layers[1]
    expected = teacher(**batch, use_cache=False).logits
    torch.testing.assert_close(student(**batch, use_cache=False).logits, expected)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).logits, expected)
    assert loaded.generation_config.max_new_tokens == 7


# --- whole jobs

SENTENCES = ["the film is good", "this is a very bad film", "it is not great", "a dull film is the worst"]


def settings(folder, suffix="txt", **changed):
    """A job of seconds on files of sentences, with a teacher that is trained first."""
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


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_job_trains_a_teacher_and_a_student_of_its_layers(tmp_path, suffix):
    whole = job(settings(tmp_path, suffix, student_without_kd=True))
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
    given = settings(tmp_path)
    student, tokenizer = tiny_lm(vocab_size=96), text_tokenizer()
    tokenizer.add_tokens(["film2"])
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    with pytest.raises(
        ValueError, match=r"tokenizer \(.*, 95 tokens\) and the student's \(.*, 96\) do not make the same tokens"
    ):
        job({**given, "student_layers": None, "student": str(tmp_path / "student")}).check()


def test_blocks_longer_than_the_models_positions_are_refused(tmp_path):
    given = settings(tmp_path, max_length=64)
    tiny_lm(max_position_embeddings=32).save_pretrained(tmp_path / "pretrained")
    with pytest.raises(ValueError, match="the teacher reads 32 tokens at most: set max_length to 32 or less"):
        job(given).check()
