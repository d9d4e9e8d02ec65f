"""Students that learn through PEFT's adapters alone."""

import copy
import json
import sys

import pytest
import torch
from datasets import Dataset
from helpers import reference
from helpers.small_jobs import job, settings
from helpers.small_runs import (
    LEARNING_RATE,
    assert_same_run,
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    narrow_student,
    reference_run,
    train,
)
from helpers.tiny_images import VIT, tiny_classifier
from helpers.tiny_lm import language_models, lm_trainer, next_token_losses, padded_batches, rows
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_kd_lambda.models.adapters import add_adapters
from hf_kd_lambda.models.labels import permute_head
from hf_kd_lambda.trainer.trainer import DistillationTrainer
from hf_kd_lambda.utils.fingerprint import model_digest

peft = pytest.importorskip("peft")

TARGETS = {"SEQ_CLS": ["query", "value"], "CAUSAL_LM": ["q_proj", "v_proj"]}


def with_adapters(model, task_type="SEQ_CLS", **fields):
    torch.manual_seed(5)
    given = {"r": 4, "lora_alpha": 32, "target_modules": TARGETS[task_type], **fields}
    return peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, **given))


def classifiers(**fields):
    teacher, student = models()
    return teacher, with_adapters(student, **fields)


def test_which_adapters_are_used_and_how_much_is_part_of_the_fingerprint():
    def digest(change=lambda model: None, **fields):
        model = with_adapters(models()[1], lora_dropout=0.0, init_lora_weights=False, **fields)
        model.add_adapter("other", model.peft_config["default"])
        torch.nn.init.constant_(
            model.base_model.model.bert.encoder.layer[0].attention.self.query.lora_B["other"].weight, 1
        )
        change(model)
        return model_digest(model)

    changes = [lambda model: model.set_adapter("other"), lambda model: model.base_model.disable_adapter_layers()]
    found = {digest(), digest(lora_alpha=16), *map(digest, changes)}
    assert len(found) == 4
    assert digest() in found


def test_a_head_with_adapters_of_its_own_keeps_its_order():
    of_head = peft.get_peft_model(models()[0], peft.LoraConfig(target_modules=["classifier"]))
    two_heads = with_adapters(models()[0])
    permute_head(two_heads, [1, 0, 2])  # of one adapter
    two_heads.add_adapter("other", two_heads.peft_config["default"])
    for model in (of_head, two_heads):
        with pytest.raises(ValueError, match=r"adapters in its head.*merge_and_unload"):
            permute_head(model, [1, 0, 2])


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_a_classifier_equals_plain_autograd_over_its_adapters(tmp_path):
    teacher, student = classifiers()
    assert {name.split(".")[-2] for name in trainable(student)} == {"default"}
    twin, before = copy.deepcopy(student), copy.deepcopy(dict(student.named_parameters()))
    steps = reference_run(twin, teacher, examples())
    trainer = train(config(tmp_path), teacher, student, examples())
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved <= trainable(twin)
    assert {name for name in trainable(twin) if "lora_A" not in name} <= moved, "others have hardly a gradient yet"


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_language_model_equals_plain_autograd_over_its_adapters(tmp_path, monkeypatch, accumulation):
    teacher, student = language_models()
    student = with_adapters(student, "CAUSAL_LM")
    twin = copy.deepcopy(student)
    monkeypatch.setattr(reference, "losses", next_token_losses)
    optimizer = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=LEARNING_RATE)
    steps = reference.run(twin, teacher, padded_batches(rows()), optimizer)
    batch = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    trainer = lm_trainer(tmp_path, teacher, student, **batch)
    trainer.train()
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)


@pytest.mark.parametrize(
    "kd_losses", [{"hidden_mse": 1.0}, {"relations": {"relation_heads": 4}}, {"attention_kl": 1.0}]
)
def test_losses_of_what_is_inside_reach_the_adapters(tmp_path, kd_losses):
    rule = {"lambda_rule": "fixed", "kd_weight": 1.0, "optim": "adamw_torch", "learning_rate": 1e-2}
    trainer = train(config(tmp_path, kd_losses=kd_losses, num_train_epochs=5, **rule), *classifiers(), examples())
    found = logged(trainer.state.log_history, "kd_loss")
    assert sum(found[-6:]) < 0.95 * sum(found[:6])


def test_all_inputs_of_the_model_reach_it_through_the_wrapper(tmp_path):
    teacher, student = classifiers()
    types = [[0] * 5 + [1] * 5] * 8
    data = examples(8).add_column("token_type_ids", types).add_column("idx", list(range(8)))
    seen = []
    student.base_model.model.bert.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["token_type_ids"]), with_kwargs=True
    )
    train(config(tmp_path), teacher, student, data)
    assert seen[0].tolist() == types


def test_adapters_of_embeddings_are_trained_as_any(tmp_path):
    teacher, student = classifiers(target_modules=["word_embeddings", "query"])
    twin = copy.deepcopy(student)
    steps = reference_run(twin, teacher, examples())
    trainer = train(config(tmp_path), teacher, student, examples())
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)


def test_the_adapters_are_what_is_saved(tmp_path):
    teacher, student = classifiers()
    base = models()[1]
    trainer = train(config(tmp_path), teacher, student, examples())
    trainer.save_model()
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert all("lora" in name or "classifier" in name for name in saved)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path))
    inputs = {name: torch.tensor(examples(4)[name][:]) for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(loaded.eval()(**inputs).logits, trainer.model.eval()(**inputs).logits)


def test_the_adapters_are_what_is_pushed(tmp_path, monkeypatch):
    pushes = []
    name = "me/student"
    monkeypatch.setattr(DistillationTrainer, "init_hf_repo", lambda self: setattr(self, "hub_model_id", name))
    monkeypatch.setattr("hf_kd_lambda.trainer.trainer.upload_folder", lambda **given: pushes.append(given))
    monkeypatch.setattr(DistillationTrainer, "create_model_card", lambda self, **facts: None)
    trainer = make_trainer(config(tmp_path, push_to_hub=True), *classifiers(), examples())
    assert not trainer.args.push_to_hub, "a tracker that logs the model would push the folder by a Trainer of its own"
    trainer.save_model()
    (push,) = pushes
    assert push["allow_patterns"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    (tmp_path / "adapter_model.safetensors").unlink()
    monkeypatch.setattr(trainer, "save_model", lambda **given: None)  # as with shards
    with pytest.raises(ValueError, match=r"has no weights to push, .* set state_dict_type to FULL_STATE_DICT"):
        trainer.push_to_hub()


def test_a_resumed_run_ends_as_one_that_was_not(tmp_path):
    saving = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 3}
    whole = train(config(tmp_path, **saving), *classifiers(), examples())
    resumed = make_trainer(config(tmp_path, **saving), *classifiers(), examples())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(flat(resumed.model), flat(whole.model), rtol=1e-5, atol=1e-6)
    lambdas = [logged(run.state.log_history, "lambda") for run in (whole, resumed)]
    assert lambdas[0] == pytest.approx(lambdas[1], rel=1e-5)


def test_a_cached_teacher_says_the_same(tmp_path):
    online = train(config(tmp_path, cache_teacher=False), *classifiers(), examples())
    args = config(tmp_path, teacher_cache_dir=str(tmp_path / "cache"))
    cached = train(args, *classifiers(), examples())
    assert "teacher_logits" in cached.train_dataset.column_names
    torch.testing.assert_close(flat(cached.model), flat(online.model), rtol=1e-5, atol=1e-6)


def test_a_language_model_learns_from_logits_in_a_column(tmp_path):
    teacher, student = language_models()
    data = rows(16)
    (batch,) = padded_batches(data, 16)
    with torch.no_grad():
        logits = teacher(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    lengths = batch["attention_mask"].sum(-1).tolist()
    with_logits = data.to_dict() | {
        "teacher_logits": [row[:n].tolist() for row, n in zip(logits, lengths, strict=True)]
    }
    runs = []
    for given, examples_ in ((teacher, data), (None, Dataset.from_dict(with_logits))):
        adapted = with_adapters(copy.deepcopy(student), "CAUSAL_LM")
        trainer = lm_trainer(tmp_path, given, adapted, examples_)
        trainer.train()
        runs.append(flat(trainer.model))
    torch.testing.assert_close(*runs, rtol=1e-5, atol=1e-7)


def test_layers_have_their_own_lambda(tmp_path):
    trainer = train(config(tmp_path, lambda_scope="layer", max_steps=2), *classifiers(), examples())
    names = {name for name in trainer.state.log_history[0] if name.startswith("lambda/")}
    assert names == {"lambda/layer.0", "lambda/layer.1", "lambda/head"}


def test_a_narrower_student_with_adapters_is_refused(tmp_path):
    student = with_adapters(narrow_student())
    with pytest.raises(ValueError, match="PEFT saves adapters alone, and no projection"):
        make_trainer(config(tmp_path, kd_losses={"hidden_mse": 1.0}), models()[0], student, examples())


def test_a_model_card_can_be_written(tmp_path):
    trainer = train(config(tmp_path), *classifiers(), examples())
    trainer.create_model_card()
    assert "λ" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_saved_language_model_generates(tmp_path):
    teacher, student = language_models()
    base = copy.deepcopy(student)
    base.save_pretrained(tmp_path / "base")
    adapted = with_adapters(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), "CAUSAL_LM")
    trainer = lm_trainer(tmp_path / "out", teacher, adapted)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")  # which finds the base model by its path
    (batch, *_) = padded_batches(rows())
    del batch["labels"]
    torch.testing.assert_close(loaded(**batch).logits, trainer.model.eval()(**batch).logits)


# --- whole jobs

LORA = {"r": 4, "lora_alpha": 32, "target_modules": ["query", "value"]}


def test_a_job_merges_the_adapters_into_its_student(tmp_path):
    given = settings(tmp_path, lora=json.dumps(LORA), student_without_kd=True, learning_rate=2e-2)
    whole = job(given)
    whole.check()
    reports = whole.run()
    for folder in (tmp_path / "out", tmp_path / "out" / "without_kd"):
        assert (folder / "model.safetensors").is_file()
        assert not (folder / "adapter_model.safetensors").exists()
    saved, teacher = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / name).state_dict()
        for name in (".", "teacher")
    )
    layer = "bert.encoder.layer.{}.attention.self.{}.weight"
    assert not torch.equal(saved[layer.format(1, "query")], teacher[layer.format(3, "query")])
    assert torch.equal(saved[layer.format(1, "key")], teacher[layer.format(3, "key")])
    assert [report.name for report in reports] == ["teacher", "student without KD", "student with KD"]


@pytest.mark.parametrize("problem", ["text-classification", "image-classification"])
def test_the_head_of_a_classifier_is_trained_with_the_adapters(problem):
    student = models()[1] if problem.startswith("text") else tiny_classifier(VIT)
    targets = TARGETS["SEQ_CLS"] if problem.startswith("text") else ["q_proj", "v_proj"]
    with_head = add_adapters(student, {"target_modules": targets}, problem)
    assert any("classifier" in name for name in trainable(with_head))
    assert all("lora" in name or "classifier" in name for name in trainable(with_head))


@pytest.mark.parametrize("fields", [{}, {"modules_to_save": ["layer_2"]}])
def test_a_head_of_any_name_is_trained_with_the_adapters(fields):
    sizes = {"vocab_size": 50, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}
    student = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("xlnet", **sizes))
    trained = trainable(add_adapters(student, {"target_modules": ["layer_1"], **fields}, "text-classification"))
    heads = {name.split(".modules_to_save")[0].rpartition(".")[2] for name in trained if "lora" not in name}
    assert heads == {"logits_proj", *fields.get("modules_to_save", [])}


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 4}, r"lora={'rank': 4}: .*unexpected keyword argument 'rank'"),
        ({"target_modules": ["q_proj"]}, r"lora={'target_modules': \['q_proj'\]}: No modules were targeted"),
        ("r", r"lora='r' must be a mapping, e\.g\. "),
    ],
)
def test_adapters_that_cannot_be_are_refused_before_training(tmp_path, lora, message):
    with pytest.raises(ValueError, match=message):
        job(settings(tmp_path, lora=json.dumps(lora) if isinstance(lora, dict) else lora)).check()


def test_without_peft_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"hf-kd-lambda\[peft\]\""):
        job(settings(tmp_path, lora=json.dumps(LORA))).check()
