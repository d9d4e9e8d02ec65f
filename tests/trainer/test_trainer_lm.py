"""Language models: each position predicts the next label, in both losses, in λ and in evaluation."""

import copy

import pytest
import torch
from datasets import Dataset
from helpers import reference
from helpers.small_runs import BATCH, LEARNING_RATE, assert_same_run, config, flat, logged
from helpers.tiny import tiny_bert
from helpers.tiny_lm import (
    GROUPED,
    SIZES,
    language_models,
    lm_trainer,
    next_token_losses,
    padded_batches,
    rows,
    text_tokenizer,
    tiny_lm,
)
from transformers import DataCollatorForLanguageModeling, Gemma3Config, Gemma3ForConditionalGeneration
from transformers.loss.loss_utils import ForCausalLMLoss

from hf_kd_lambda.balancing.votes import TeacherVotes, soft_votes
from hf_kd_lambda.models.vocabulary import align_vocabularies
from hf_kd_lambda.trainer.trainer import DistillationTrainer

MODEL_TYPES = ["llama", "gpt2"]


def reference_run(monkeypatch, student, teacher, data, **settings):
    monkeypatch.setattr(reference, "losses", next_token_losses)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=LEARNING_RATE)
    return reference.run(student, teacher, padded_batches(data), optimizer, **settings)


# --- data


def trainer_of(folder, data, collator=None):
    teacher, student = language_models()
    given = {"data_collator": collator, "processing_class": text_tokenizer()}
    return DistillationTrainer(student, config(folder, max_steps=2), teacher=teacher, train_dataset=data, **given)


def test_chunks_with_labels_need_no_collator(tmp_path):
    chunks = Dataset.from_dict({name: [[2, *range(10, 17)]] * 16 for name in ("input_ids", "labels")})
    trainer = trainer_of(tmp_path, chunks)
    trainer.train()
    assert all(value > 0 for value in logged(trainer.state.log_history, "task_loss"))
    wrong = Dataset.from_dict({"input_ids": [[2, 10]], "labels": [[2, 1000]]})
    with pytest.raises(ValueError, match=r"example 0 .*: label 1000 is not a class"):
        trainer_of(tmp_path, wrong)


def test_texts_without_labels_name_the_collator_that_makes_them(tmp_path):
    texts = Dataset.from_dict({"input_ids": [[2, *range(10, 17)]] * 16})
    with pytest.raises(ValueError, match=r"train_dataset gives no labels \(input_ids\).*mlm=False"):
        trainer_of(tmp_path, texts)
    trainer_of(tmp_path, texts, DataCollatorForLanguageModeling(text_tokenizer(), mlm=False)).train()


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


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        *[("llama", name) for name in ("hidden_mse", "attention_kl", "relations")],
        ("qwen3", "relations"),  # it norms its queries and keys
        *[
            pytest.param(*variant, marks=pytest.mark.slow)
            for variant in [
                ("llama", "reverse_kl"),
                ("llama", "jensen_shannon"),
                ("llama", "value_relations"),
                ("qwen3", "value_relations"),
            ]
        ],
    ],
)
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
    votes = TeacherVotes()
    votes.update(soft_votes(ours, theirs, labels[:, 1:]))
    trainer = lm_trainer(tmp_path, teacher, student, lambda_rule="evidence", lambda_rule_kwargs={"gamma": 1.0})
    trainer.train()
    odds = logged(trainer.state.log_history, "odds")
    assert odds[0] == pytest.approx(votes.odds.item(), rel=1e-5)
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


def test_a_model_of_texts_and_images_teaches_one_of_texts(tmp_path):
    images = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    texts = {**SIZES, **GROUPED, "num_hidden_layers": 1, "vocab_size": SIZES["vocab_size"] + 8}
    sizes = Gemma3Config(text_config=texts, vision_config={**images, "image_size": 14, "patch_size": 14})
    teacher = Gemma3ForConditionalGeneration(sizes)
    with pytest.raises(ValueError, match=r"teacher.resize_token_embeddings\(95\)"):
        lm_trainer(tmp_path, teacher, tiny_lm())
    align_vocabularies([teacher, tiny_lm()], tokens=95)
    trainer = lm_trainer(tmp_path, teacher, tiny_lm(), max_steps=1, lambda_rule="trust")
    trainer.train()
    assert not teacher.config.text_config.use_cache
    assert logged(trainer.state.log_history, "kd_loss")[0] > 0


# --- refusals


def test_vocabularies_of_unlike_sizes_are_refused(tmp_path):
    teacher, student = tiny_lm(vocab_size=120), tiny_lm()
    message = r"the teacher's vocabulary has 120 tokens, the student's 95, .* teacher.resize_token_embeddings\(95\)"
    with pytest.raises(ValueError, match=message):
        lm_trainer(tmp_path, teacher, student)
    teacher.resize_token_embeddings(95)
    lm_trainer(tmp_path, teacher, student)


def test_a_teacher_that_predicts_no_next_token_is_refused(tmp_path):
    message = "the teacher, a BertForSequenceClassification, is not: use a causal language model as teacher"
    with pytest.raises(ValueError, match=message):
        lm_trainer(tmp_path, tiny_bert(), tiny_lm())


def test_tokens_of_the_teachers_own_are_refused(tmp_path):
    data = rows(4)
    data = data.add_column("teacher_input_ids", data["input_ids"][:])
    with pytest.raises(ValueError, match="for language models, both models need the same tokens"):
        lm_trainer(tmp_path, tiny_lm(), tiny_lm(), data)


def test_labels_of_a_classifier_mean_nothing_here(tmp_path):
    teacher = tiny_lm(id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    lm_trainer(tmp_path, teacher, tiny_lm(id2label={0: "yes", 1: "no"}, label2id={"yes": 0, "no": 1}))


def test_relation_heads_divide_the_width_of_the_keys_too(tmp_path):
    with pytest.raises(ValueError, match=r"relations: relation_heads=32 must divide .*\(16, 16\)"):
        lm_trainer(tmp_path, *language_models(), kd_losses={"relations": {"relation_heads": 32}})
