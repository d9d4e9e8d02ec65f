"""Training on hidden states, attention maps and relations: what is balanced, logged, saved and refused."""

import copy
import json

import pytest
import torch
from datasets import concatenate_datasets
from helpers.small_runs import config, examples, flat, logged, make_trainer, models, narrow_student, train
from helpers.tiny import SIZES, tiny_bert
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from hf_kd_lambda.losses import functional as losses
from hf_kd_lambda.models.attention import check_undropped_maps, use_undropped_maps
from hf_kd_lambda.models.layers_of_teacher import student_from_layers

EAGER = {"attn_implementation": "eager"}
ALL = {
    "soft_targets": 1.0,
    "hidden_mse": 0.5,
    "pkd": 0.3,
    "embedding_mse": 0.1,
    "attention_maps": 2.0,
    "attention_kl": 0.7,
    "relations": {"weight": 0.2, "relation_heads": 4},
}
VARIANTS = ["soft_targets", "hidden_cosine", "pkd", "attention_kl", "value_relations"]
"""Losses whose code others run, too."""


def first_batch(data, size=8):
    return {name: torch.tensor(data[name][:size]) for name in ("input_ids", "attention_mask", "labels")}


def test_the_gradient_balanced_is_that_of_the_weighted_sum(tmp_path):
    teacher, student = models(**EAGER)
    twin, data = copy.deepcopy(student), examples()
    settings = {"kd_losses": {"soft_targets": 1.0, "hidden_mse": {"weight": 0.5, "layers": "last"}}, "max_steps": 1}
    trainer = train(config(tmp_path, **settings), teacher, student, data)

    batch = first_batch(data)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours, theirs = (model(**inputs, output_hidden_states=True) for model in (twin, teacher.eval()))
    soft = losses.soft_target_loss(ours.logits, theirs.logits, batch["labels"], 8, 2.0)
    pairs = ((1, 3), (2, 4))
    hidden = sum((ours.hidden_states[s] - theirs.hidden_states[t]).square().mean() for s, t in pairs) / 2
    kd = soft + 0.5 * hidden
    gradients = torch.autograd.grad(kd, list(twin.parameters()), allow_unused=True)
    norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item()
    assert logged(trainer.state.log_history, "grad_norm_kd") == pytest.approx([norm], rel=1e-4)
    for name, value in (("kd_loss", kd), ("kd_loss/soft_targets", soft), ("kd_loss/hidden_mse", hidden)):
        assert logged(trainer.state.log_history, name) == pytest.approx([value.item()], rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS))
        for name in (*ALL, "hidden_cosine", "value_relations")
    ],
)
def test_each_loss_alone_trains_and_falls(tmp_path, name):
    teacher, student = models(**EAGER)[0], narrow_student(hidden_size=32, **EAGER)
    hyper = {"relation_heads": 4} if "relations" in name else 1.0
    rule = {"lambda_rule": "fixed", "kd_weight": 1.0}
    args = config(
        tmp_path, kd_losses={name: hyper}, num_train_epochs=5, optim="adamw_torch", learning_rate=2e-3, **rule
    )
    trainer = train(args, teacher, student, examples())
    found = logged(trainer.state.log_history, "kd_loss")
    assert all(torch.tensor(found).isfinite())
    assert sum(found[-6:]) < 0.9 * sum(found[:6])


def test_all_losses_together_are_logged_one_by_one(tmp_path):
    teacher, student = models(**EAGER)
    trainer = train(config(tmp_path, kd_losses=ALL, eval_strategy="epoch"), teacher, student, examples(),
                    eval_dataset=examples())  # fmt: skip
    steps = [entry for entry in trainer.state.log_history if "lambda" in entry]
    weights = {name: value["weight"] if isinstance(value, dict) else value for name, value in ALL.items()}
    for entry in steps:
        total = sum(weight * entry[f"kd_loss/{name}"] for name, weight in weights.items())
        assert entry["kd_loss"] == pytest.approx(total, rel=1e-5)
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert {f"eval_kd_loss/{name}" for name in ALL} <= evaluation.keys()


def test_measured_and_unmeasured_steps_descend_the_same_loss(tmp_path):
    runs = []
    for rule in ({"lambda_rule": "fixed", "kd_weight": 0.5}, {"lambda_min": 1.0, "lambda_max": 1.0}):
        args = config(tmp_path, kd_losses={"soft_targets": 1, "hidden_mse": 1}, **rule)
        runs.append(train(args, *models(), examples()))
    torch.testing.assert_close(flat(runs[0].model), flat(runs[1].model), rtol=1e-5, atol=1e-6)


def test_a_narrower_student_is_projected_trained_and_saved_without_the_projection(tmp_path):
    teacher, _ = models()
    args = config(
        tmp_path, kd_losses={"hidden_mse": 1.0}, save_strategy="steps", save_steps=3, optim="adamw_torch",
        learning_rate=1e-3,
    )  # fmt: skip
    student = narrow_student()
    trainer = make_trainer(args, teacher, student, examples())
    before = {name: parameter.clone() for name, parameter in student.kd_projections.named_parameters()}
    assert set(before) == {f"{layer}.{kind}" for layer in (1, 2) for kind in ("weight", "bias")}
    trainer.train()
    for name, parameter in student.kd_projections.named_parameters():
        assert not torch.equal(parameter, before[name])
    for save in (trainer.save_model, lambda: trainer.save_model(_internal_call=True)):  # which push_to_hub calls
        save()
        saved = load_file(tmp_path / "model.safetensors")
        assert not [name for name in saved if "kd_projections" in name]
    assert set(load_file(tmp_path / "checkpoint-3" / "model.safetensors")) - set(saved) == {
        f"kd_projections.{name}" for name in before
    }
    inputs = {name: value for name, value in first_batch(examples()).items() if name != "labels"}
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**inputs).logits, student.eval()(**inputs).logits)


def test_a_resumed_run_goes_on_with_its_projections(tmp_path):
    settings = {"kd_losses": {"hidden_mse": 1.0}, "optim": "adamw_torch", "save_strategy": "steps", "save_steps": 3}
    whole = train(config(tmp_path, **settings), models()[0], narrow_student(), examples())
    resumed = make_trainer(config(tmp_path, **settings), models()[0], narrow_student(), examples())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(flat(resumed.model), flat(whole.model), rtol=1e-5, atol=1e-6)


def test_projections_are_not_balanced(tmp_path):
    teacher, data = models()[0], examples()
    student = narrow_student()
    trainer = make_trainer(config(tmp_path, kd_losses={"hidden_mse": 1.0}, max_steps=1), teacher, student, data)
    twin = copy.deepcopy(student)
    trainer.train()
    batch = first_batch(data)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = twin(**inputs, output_hidden_states=True).projected_states
    theirs = teacher.eval()(**inputs, output_hidden_states=True).hidden_states
    hidden = sum((ours[s] - theirs[t]).square().mean() for s, t in ((1, 2), (2, 4))) / 2
    named = {name: parameter for name, parameter in twin.named_parameters() if "kd_projections" not in name}
    gradients = torch.autograd.grad(hidden, list(named.values()), allow_unused=True)
    norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item()
    assert logged(trainer.state.log_history, "grad_norm_kd") == pytest.approx([norm], rel=1e-4)


def test_an_evaluation_does_not_gather_hidden_states(tmp_path):
    trainer = make_trainer(config(tmp_path, kd_losses=ALL), *models(**EAGER), examples())
    assert trainer.predict(examples(count=12)).predictions.shape == (12, 3)
    assert trainer.predict(examples(count=12).remove_columns("labels")).predictions.shape == (12, 3)


def test_a_student_made_to_put_out_hidden_states_still_does(tmp_path):
    trainer = make_trainer(config(tmp_path, kd_losses={"pkd": 1.0}), *models(output_hidden_states=True), examples())
    logits, hidden = trainer.predict(examples(count=12)).predictions
    assert logits.shape == (12, 3)
    assert len(hidden) == 3
    student = narrow_student(output_hidden_states=True)
    trainer = make_trainer(config(tmp_path, kd_losses={"pkd": 1.0}), models()[0], student, examples())
    assert {state.shape for state in trainer.predict(examples(count=12)).predictions[1]} == {(12, 10, 24)}, "its own"


def test_a_student_of_half_precision_is_projected(tmp_path):
    teacher, student = models()[0], narrow_student().bfloat16()
    trainer = train(config(tmp_path, kd_losses={"hidden_mse": 1.0}, max_steps=2), teacher, student, examples())
    assert student.kd_projections["1"].weight.dtype == torch.bfloat16
    assert len(logged(trainer.state.log_history, "grad_norm_kd")) == 2


def test_trainers_may_follow_each_other_with_the_same_models(tmp_path):
    teacher, student = models(**EAGER)[0], narrow_student(**EAGER)
    relations = {"relations": {"relation_heads": 4}}
    for kd_losses, projected in (
        ({**relations, "hidden_mse": {"layers": {0: 3}}}, ["1"]),
        ({**relations, "hidden_mse": {"layers": {1: 3}}}, ["2"]),
        (relations, []),
    ):
        twins = copy.deepcopy(teacher), narrow_student(**EAGER)
        twins[1].load_state_dict(student.state_dict(), strict=False)
        torch.manual_seed(0)
        again = make_trainer(config(tmp_path, kd_losses=kd_losses), teacher, student, examples())
        torch.manual_seed(0)
        fresh = make_trainer(config(tmp_path, kd_losses=kd_losses), *twins, examples())
        assert list(getattr(student, "kd_projections", [])) == projected
        assert again.evaluate(examples(12))["eval_kd_loss"] == fresh.evaluate(examples(12))["eval_kd_loss"]


@pytest.mark.parametrize("scope", ["model", "loss"])
def test_a_loss_that_reaches_nothing_that_is_trained(tmp_path, scope):
    teacher, student = models()
    student.bert.embeddings.requires_grad_(False)
    args = config(tmp_path, kd_losses={"soft_targets": 1.0, "embedding_mse": 1.0}, lambda_scope=scope)
    with pytest.raises(ValueError, match=r"kd_losses: embedding_mse: no trainable parameter .*: leave it out"):
        make_trainer(args, teacher, student, examples())


def test_attention_maps_come_from_eager_attention(tmp_path, caplog):
    args = config(tmp_path, kd_losses={"attention_maps": 1.0}, max_steps=1)
    trainer = train(args, *models(attn_implementation="sdpa"), examples())
    assert logged(trainer.state.log_history, "kd_loss")[0] > 0
    assert "the student's attn_implementation='sdpa' returns no attention maps: using eager" in caplog.text


@pytest.mark.parametrize("loss", ["attention_maps", "attention_kl"])
def test_a_student_with_dropout_is_compared_by_what_its_softmax_gives(tmp_path, loss):
    # A student that is its teacher, but for dropout of attention: the first layer's maps are the teacher's.
    student = tiny_bert(layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    teacher = copy.deepcopy(student)
    args = config(tmp_path, kd_losses={loss: 1.0}, max_steps=2, learning_rate=0.0, lambda_rule="fixed")
    trainer = train(args, teacher, student, examples())
    assert logged(trainer.state.log_history, "kd_loss") == pytest.approx([0.0] * 2, abs=1e-6)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert loaded.config._attn_implementation == "sdpa"
    inputs = {name: first_batch(examples())[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(loaded.eval()(**inputs).logits, trainer.model.eval()(**inputs).logits)


def test_dropout_goes_on_where_its_maps_are_not_dropped(tmp_path):
    student = tiny_bert(layers=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5, **EAGER)
    inputs = {name: first_batch(examples())[name] for name in ("input_ids", "attention_mask")}
    torch.manual_seed(0)
    dropped = student.train()(**inputs).logits
    use_undropped_maps(student)
    torch.manual_seed(0)
    torch.testing.assert_close(student(**inputs).logits, dropped)


XLNET = {"vocab_size": 95, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "num_labels": 3}


@pytest.mark.parametrize(
    ("student", "fields"),
    [
        (
            lambda: MPNetForSequenceClassification(MPNetConfig(**SIZES, num_hidden_layers=2, num_labels=3)),
            "hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1",
        ),
        (lambda: XLNetForSequenceClassification(XLNetConfig(**XLNET)), "dropout=0.1, summary_last_dropout=0.1"),
        (lambda: tiny_bert(layers=2, output_attentions=True, **EAGER), "attention_probs_dropout_prob=0.1"),
    ],
    ids=["MPNet", "XLNet", "output_attentions"],
)
def test_dropout_of_attention_that_cannot_be_taken_out_of_the_maps(tmp_path, student, fields):
    student = student()
    message = refused(tmp_path, {"attention_kl": 1.0}, student=student)
    assert f"{type(student).__name__}, returns its attention maps after dropout: load the student with 0" in message
    assert fields in message


def test_maps_without_dropout_of_a_model_with_its_own_attention_are_compared(tmp_path):
    student = XLNetForSequenceClassification(XLNetConfig(**XLNET, dropout=0.0))
    teacher = XLNetForSequenceClassification(XLNetConfig(**XLNET))
    make_trainer(config(tmp_path, kd_losses={"attention_maps": 1.0}), teacher, student, examples())


def test_the_check_for_dropout_changes_nothing():
    student = tiny_bert(layers=1, attention_probs_dropout_prob=0.0, **EAGER).eval()
    inputs = {name: first_batch(examples())[name] for name in ("input_ids", "attention_mask")}
    maps, state = student(**inputs, output_attentions=True).attentions, torch.random.get_rng_state()
    check_undropped_maps(student, inputs, maps)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module.training for module in student.modules())


def test_the_teacher_is_asked_at_each_step_where_its_logits_are_not_enough(tmp_path, caplog):
    trainer = make_trainer(config(tmp_path, kd_losses={"pkd": 1.0}), *models(), examples())
    assert not trainer.cache_teacher()
    assert "the teacher runs at each step, because kd_losses need more than its logits: hidden_states" in caplog.text


def test_soft_targets_with_another_loss_of_logits_are_cached(tmp_path):
    args = config(tmp_path, kd_losses={"soft_targets": 1, "reverse_kl": 1}, teacher_cache_dir=str(tmp_path / "cache"))
    assert make_trainer(args, *models(), examples()).cache_teacher()


def test_layers_have_their_own_lambda_and_the_projections_that_of_the_head(tmp_path):
    args = config(tmp_path, kd_losses={"soft_targets": 1, "hidden_mse": 1}, lambda_scope="layer", max_steps=2)
    trainer = train(args, models()[0], narrow_student(), examples())
    names = {name for name in trainer.state.log_history[0] if name.startswith("lambda/")}
    assert names == {"lambda/embeddings", "lambda/layer.0", "lambda/layer.1", "lambda/head"}


def test_accumulation_changes_nothing(tmp_path):
    kd_losses = {"soft_targets": 1, "hidden_mse": 1, "attention_maps": 1}
    whole = train(config(tmp_path, kd_losses=kd_losses), *models(**EAGER), examples())
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    split = train(config(tmp_path, kd_losses=kd_losses, **settings), *models(**EAGER), examples())
    torch.testing.assert_close(flat(split.model), flat(whole.model), rtol=1e-5, atol=1e-6)
    for name in ("lambda", "kd_loss/attention_maps"):
        expected = logged(whole.state.log_history, name)
        assert logged(split.state.log_history, name) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_either_estimator_leaves_projections_out(tmp_path, estimator):
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "gram_decay": 0.0}
    args = config(tmp_path, kd_losses={"hidden_mse": 1.0}, gram_estimator=estimator, max_steps=1, **settings)
    trainer = make_trainer(args, models()[0], narrow_student(), examples())
    trainer.train()
    with_noise = logged(trainer.state.log_history, "grad_norm_kd")
    reference = make_trainer(
        config(tmp_path, kd_losses={"hidden_mse": 1.0}, max_steps=1), models()[0], narrow_student(), examples()
    )
    reference.train()
    assert with_noise == pytest.approx(logged(reference.state.log_history, "grad_norm_kd"), rel=1e-3)


def test_a_batch_without_any_label_has_no_task_loss_and_not_nan(tmp_path):
    data = examples(16)
    ignored = data.select(range(8)).remove_columns("labels").add_column("labels", [-100] * 8)
    args = config(tmp_path, kd_losses={"soft_targets": 1, "hidden_mse": 1})
    trainer = make_trainer(args, *models(), data)
    found = trainer.evaluate(concatenate_datasets([ignored, data]))
    labelled, all_examples = (
        trainer.evaluate(data),
        trainer.evaluate(concatenate_datasets([data.select(range(8)), data])),
    )
    assert found["eval_task_loss"] == pytest.approx(labelled["eval_task_loss"])
    for name in ("kd_loss", "kd_loss/hidden_mse", "teacher_agreement"):
        assert found[f"eval_{name}"] == pytest.approx(all_examples[f"eval_{name}"])


# --- refusals: all before training, by setting and fix


def refused(tmp_path, kd_losses, teacher=None, student=None, data=None, **settings):
    default_teacher, default_student = models(**settings)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the messages are what the callers look at
        make_trainer(
            config(tmp_path, kd_losses=kd_losses), teacher or default_teacher, student or default_student,
            examples() if data is None else data,
        )  # fmt: skip
    return str(error.value)


def test_a_layer_that_is_not_there(tmp_path):
    message = refused(tmp_path, {"pkd": {"layers": {0: 7}}})
    assert message.startswith("kd_losses: pkd: layers={0: 7}: the pair (0, 7) does not exist")


def test_head_counts_that_differ(tmp_path):
    student = narrow_student(num_attention_heads=4, **EAGER)
    assert "use relation_loss" in refused(tmp_path, {"attention_maps": 1.0}, student=student, **EAGER)


def test_a_model_without_attention(tmp_path):
    teacher, student = models()
    student.register_forward_hook(lambda module, args, outputs: type(outputs)(logits=outputs.logits))
    message = refused(tmp_path, {"attention_maps": 1.0}, teacher, student)
    assert message == (
        "kd_losses: the student, a BertForSequenceClassification, returns no attentions: use losses on logits."
    )


def test_relation_heads_that_do_not_divide_the_width(tmp_path):
    message = refused(tmp_path, {"relations": {"relation_heads": 5}})
    assert message.startswith("kd_losses: relations: relation_heads=5 must divide the widths")


def test_a_model_without_queries_keys_and_values_apart(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 200, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "pad_token_id": 0}
    student = GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=3))
    message = refused(tmp_path, {"relations": {"relation_heads": 4}}, student=student, vocab_size=200)
    assert "need separate queries, keys and values, but the student, a GPT2ForSequenceClassification" in message


def test_a_teacher_with_tokens_of_its_own(tmp_path):
    data = examples()
    reversed_ids = [ids[::-1] for ids in data["input_ids"]]
    own = data.add_column("teacher_input_ids", reversed_ids)
    assert "the teacher has tokens of its own" in refused(tmp_path, {"pkd": 1.0}, data=own)
    same = data.add_column("teacher_input_ids", data["input_ids"][:])
    make_trainer(config(tmp_path, kd_losses={"pkd": 1.0}), *models(), same)


def test_a_regression_has_no_distributions(tmp_path):
    message = refused(tmp_path, {"soft_targets": 1.0}, data=examples(num_labels=1), num_labels=1)
    assert (
        "soft_targets compares distributions over classes, and a regression has one output: take logit_mse" in message
    )


def test_logits_alone_where_more_is_needed(tmp_path):
    student = student_from_layers(tiny_bert(3), [0])
    data = examples().add_column("teacher_logits", [[0.0, 1.0, 2.0]] * len(examples()))
    with pytest.raises(ValueError, match="pkd needs more of the teacher than its logits: give a teacher"):
        make_trainer(config(tmp_path, kd_losses={"pkd": 1.0}), None, student, data)


def test_settings_of_the_command_line_are_json(tmp_path):
    args = config(tmp_path, kd_losses=json.dumps({"pkd": {"layers": "last"}}))
    assert args.kd_losses == {"pkd": {"layers": "last"}}
    with pytest.raises(ValueError, match=r"kd_losses='pkd' must be a mapping, e\.g\. "):
        config(tmp_path, kd_losses="pkd")
    with pytest.raises(ValueError, match=r"kd_losses=\{'pk': 1\}: unknown KD loss 'pk': did you mean 'pkd'"):
        config(tmp_path, kd_losses={"pk": 1})
