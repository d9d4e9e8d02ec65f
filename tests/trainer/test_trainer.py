"""`DistillationTrainer` against a plain loop, and what a step does to student, teacher and λ."""

import copy
import math
import os
import signal

import pytest
import torch
import torch._functorch.config as functorch
import torch.nn.functional as F
from helpers import reference
from helpers.small_runs import (
    BATCH,
    LEARNING_RATE,
    STEPS,
    assert_same_run,
    batches,
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    reference_run,
    train,
)
from helpers.tiny import VOCABULARY, tiny_bert, tiny_tokenizer
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.measuring_step import MeasuringStep


def assert_equals_reference(
    folder,
    teacher,
    student,
    data=None,
    settings=None,
    different_lambdas=4,
    rel=1e-6,
    optimizer=None,
    args=None,
    **kwargs,
):
    """Train with `args` of the Trainer, and a twin with `settings` of the reference; return the trainer."""
    data = data or examples()
    twin = copy.deepcopy(student)
    optimizer = optimizer(twin.parameters()) if optimizer else None
    steps = reference_run(twin, teacher, data, optimizer, **(settings or {}))
    trainer = train(config(folder, **(args or {})), teacher, student, data, **kwargs)
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps, different_lambdas, rel)
    return trainer


class Watch(TrainerCallback):
    """What the student looks like before each optimizer step and after it."""

    def __init__(self):
        self.without_grad, self.weights = [], []

    def on_step_begin(self, args, state, control, model, **kwargs):
        if not self.weights:
            self.weights.append(flat(model))

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.without_grad.append({name for name, parameter in model.named_parameters() if parameter.grad is None})

    def on_step_end(self, args, state, control, model, **kwargs):
        self.weights.append(flat(model))


# --- the same λ, the same weights


def test_classification_equals_reference(tmp_path):
    assert_equals_reference(tmp_path, *models())


def test_regression_equals_reference(tmp_path):
    # A lower rate than the others', at which a squared error diverges and amplifies rounding with every step.
    assert_equals_reference(
        tmp_path,
        *models(num_labels=1),
        examples(num_labels=1),
        args={"learning_rate": 0.003},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.003),
    )


@pytest.mark.parametrize(
    ("args", "settings", "different_lambdas"),
    [
        ({"lambda_rule": "norm_ratio"}, {"rule": "norm_ratio"}, 4),
        ({"lambda_form": "additive"}, {"form": "additive"}, 4),
        ({"max_grad_norm": 1.0}, {"max_grad_norm": 1.0}, 4),
        ({"lambda_interval": 3}, {"interval": 3}, 2),
        ({"lambda_max_change": 0.01}, {"max_change": 0.01}, 4),
        ({"gram_decay": 0.0, "lambda_max_change": 9.0}, {"decay": 0.0, "max_change": 9.0}, 4),
        ({"lambda_min": 1.5, "lambda_max": 1.7}, {"bounds": (1.5, 1.7)}, 1),
        ({"lambda_kappa": 0.7}, {"kappa": 0.7}, 4),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_of_lambda_equal_reference(tmp_path, args, settings, different_lambdas):
    assert_equals_reference(tmp_path, *models(), args=args, settings=settings, different_lambdas=different_lambdas)


def test_kappa_is_clipped_into_the_feasible_interval(tmp_path):
    teacher, student = models()
    conflicting = {"kappa": 8.0, "decay": 0.0, "max_change": 9.0}
    args = {"lambda_kappa": 8.0, "gram_decay": 0.0, "lambda_max_change": 9.0}
    trainer = assert_equals_reference(
        tmp_path, teacher, student, args=args, settings=conflicting, different_lambdas=1, optimizer=opposed_sgd
    )
    clipped = [cosine < 0 for cosine in logged(trainer.state.log_history, "grad_cosine")]
    assert any(clipped)
    for log in (entry for entry in trainer.state.log_history if "lambda" in entry):
        a, b = log["grad_norm_task"] ** 2, log["grad_norm_kd"] ** 2
        c = log["grad_cosine"] * (a * b) ** 0.5
        wanted = 8 * (a / b) ** 0.5
        assert log["lambda"] == pytest.approx(min(wanted, -a / c if c < 0 else 10.0, 10.0), rel=1e-5)


def opposed_sgd(parameters):
    return torch.optim.SGD(parameters, lr=LEARNING_RATE)


def test_adamw_equals_reference(tmp_path):
    # A large ε: where a gradient is zero but for rounding (attention keys' biases), Adam would scale rounding up.
    args = {"optim": "adamw_torch", "adam_epsilon": 1e-4, "learning_rate": 1e-3}
    assert_equals_reference(
        tmp_path,
        *models(),
        args=args,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, eps=1e-4, weight_decay=0.0),
    )


@pytest.mark.parametrize("count", [48, 44, 46], ids=["even", "one micro-batch left", "a short micro-batch left"])
def test_accumulation_equals_one_large_batch(tmp_path, count):
    args = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
    trainer = assert_equals_reference(tmp_path, *models(), examples(count), args=args)
    assert trainer.state.global_step == STEPS


def test_accumulation_between_measurements_equals_one_large_batch(tmp_path):
    args = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "lambda_interval": 2}
    assert_equals_reference(
        tmp_path, *models(), examples(46), args=args, settings={"interval": 2}, different_lambdas=3
    )


def test_tied_embeddings_equal_reference(tmp_path):
    teacher, student = models(type_vocab_size=3)
    student.classifier.weight = student.bert.embeddings.token_type_embeddings.weight
    trainer = assert_equals_reference(tmp_path, teacher, student)
    assert trainer.model.classifier.weight is trainer.model.bert.embeddings.token_type_embeddings.weight


def test_frozen_and_unused_parameters_keep_their_values(tmp_path):
    teacher, student = models()
    student.bert.embeddings.requires_grad_(False)
    student.extra = nn.Linear(3, 3)
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    watch = Watch()
    args = {"weight_decay": 0.1}
    trainer = train(config(tmp_path, **args), teacher, copy.deepcopy(student), examples(), callbacks=[watch])
    still = {name for name, parameter in trainer.model.named_parameters() if torch.equal(parameter, before[name])}
    expected = {name for name in before if name.startswith(("bert.embeddings", "extra"))}
    assert still == expected
    assert watch.without_grad == [expected] * STEPS
    assert_equals_reference(tmp_path, teacher, student)


def test_gradient_checkpointing_equals_reference(tmp_path):
    teacher, student = models()
    passes = []
    student.bert.encoder.layer[0].attention.self.register_forward_hook(lambda *_: passes.append(1))
    args = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    twin = copy.deepcopy(student)
    steps = reference_run(twin, teacher, examples())
    passes.clear()
    trainer = train(config(tmp_path, **args), teacher, student, examples())
    assert len(passes) > STEPS, "layers must be run again in backward"
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)


def test_bf16_autocast_comes_close_to_fp32(tmp_path):
    teacher, student = models()
    dtypes = {}
    for name, model in (("student", student), ("teacher", teacher)):
        model.bert.pooler.dense.register_forward_hook(lambda *call, name=name: dtypes.update({name: call[2].dtype}))
    twin = copy.deepcopy(student)
    steps = reference_run(twin, teacher, examples())
    before = flat(student)
    dtypes.clear()
    trainer = train(config(tmp_path, precision="bf16"), teacher, student, examples())
    assert dtypes == {"student": torch.bfloat16, "teacher": torch.bfloat16}
    assert flat(trainer.model).dtype == torch.float32
    lambdas = logged(trainer.state.log_history, "lambda")
    assert lambdas == pytest.approx([step.lambda_ for step in steps], rel=0.05)
    assert lambdas != pytest.approx([step.lambda_ for step in steps], rel=1e-6)
    assert logged(trainer.state.log_history, "task_loss") == pytest.approx([s.task_loss for s in steps], rel=0.05)
    assert (flat(trainer.model) - flat(twin)).norm() < 0.1 * (flat(twin) - before).norm()


# --- other task losses


def weighted_cross_entropy(outputs, labels, num_items_in_batch):
    weight = torch.tensor([1.0, 2.0, 5.0])
    return F.cross_entropy(outputs.logits, labels, weight=weight, reduction="sum") / num_items_in_batch


def loss_with_hidden_states(outputs, labels, num_items_in_batch):
    hidden = outputs.hidden_states[1].square().mean((1, 2)).sum()
    return (F.cross_entropy(outputs.logits, labels, reduction="sum") + hidden) / num_items_in_batch


@pytest.mark.parametrize("loss", [weighted_cross_entropy, loss_with_hidden_states])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_compute_loss_func_is_the_task_loss(tmp_path, loss, accumulation):
    teacher, student = models()
    student.config.output_hidden_states = True
    args = {"per_device_train_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    settings = {"task_loss": lambda outputs, labels: loss(outputs, labels, num_items_in_batch=len(labels))}
    assert_equals_reference(tmp_path, teacher, student, args=args, settings=settings, compute_loss_func=loss)


def test_a_task_loss_in_float64_is_the_same(tmp_path):
    def in_float64(outputs, labels, num_items_in_batch):
        return F.cross_entropy(outputs.logits.double(), labels, reduction="sum") / num_items_in_batch

    args = config(tmp_path, lambda_interval=2, max_steps=2)
    losses = [
        logged(train(args, *models(), examples(), compute_loss_func=loss).state.log_history, "task_loss")
        for loss in (None, in_float64)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_label_smoothing_is_part_of_the_task_loss(tmp_path):
    settings = {"task_loss": lambda outputs, labels: F.cross_entropy(outputs.logits, labels, label_smoothing=0.2)}
    assert_equals_reference(tmp_path, *models(), args={"label_smoothing_factor": 0.2}, settings=settings)


def test_balanced_class_weights_equal_reference(tmp_path):
    data = examples()
    labels = [label if row % 3 == 0 else 0 for row, label in enumerate(data["labels"])]
    weights = torch.tensor([len(labels) / (3 * labels.count(label)) for label in range(3)])
    assert weights.max() > 4 * weights.min()

    def task_loss(outputs, labels):
        return F.cross_entropy(outputs.logits, labels, weights, reduction="sum") / len(labels)

    data = data.remove_columns("labels").add_column("labels", labels)
    args = {"class_weights": "balanced"}
    assert_equals_reference(tmp_path, *models(), data, args=args, settings={"task_loss": task_loss})


# --- what a step costs and does


@pytest.mark.parametrize(("interval", "expected"), [(1, [2] * 6), (3, [2, 1, 1, 2, 1, 1]), (10, [2, 1, 1, 1, 1, 1])])
def test_a_step_that_does_not_measure_costs_one_backward(tmp_path, interval, expected):
    teacher, student = models()
    passes = {"forward": [], "backward": []}
    trainer = make_trainer(config(tmp_path, lambda_interval=interval), teacher, student, examples())
    student.register_forward_pre_hook(lambda *_: passes["forward"].append(trainer.state.global_step))
    student.classifier.bias.register_hook(lambda _: passes["backward"].append(trainer.state.global_step))
    trainer.train()
    assert [passes["backward"].count(step) for step in range(STEPS)] == expected
    assert passes["forward"] == list(range(STEPS))


def test_both_losses_see_the_same_dropout(tmp_path):
    teacher, student = models(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    twin, random_states = copy.deepcopy(student), []
    trainer = make_trainer(config(tmp_path, max_steps=1), teacher, student, examples())
    student.register_forward_pre_hook(lambda *_: random_states.append(torch.get_rng_state()))
    trainer.train()
    assert len(random_states) == 1

    first = batches(examples())[:1]
    torch.set_rng_state(random_states[0])
    (step,) = reference.run(twin, teacher, first, torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE))
    log = trainer.state.log_history[0]
    assert log["lambda"] == pytest.approx(step.lambda_, rel=1e-6)
    assert log["task_loss"] == pytest.approx(step.task_loss, rel=1e-6)
    assert log["grad_cosine"] == pytest.approx(step.gram[2] / (step.gram[0] * step.gram[1]) ** 0.5, rel=1e-5)
    torch.testing.assert_close(flat(trainer.model), flat(twin), rtol=1e-6, atol=1e-7)


def test_the_teacher_stays_as_it_was(tmp_path):
    teacher, student = models(hidden_dropout_prob=0.5)
    teacher.train()
    before, modes = flat(teacher), []
    teacher.register_forward_pre_hook(lambda *_: modes.append((teacher.training, torch.is_grad_enabled())))
    trainer = train(config(tmp_path), teacher, student, examples())
    assert trainer.teacher is teacher
    assert modes == [(False, False)] * STEPS
    assert torch.equal(flat(teacher), before)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_logs_hold_the_weighted_loss_and_its_parts(tmp_path):
    trainer = train(config(tmp_path, logging_steps=2, logging_first_step=False), *models(), examples())
    steps = train(config(tmp_path), *models(), examples()).state.log_history
    *logs, _ = trainer.state.log_history
    names = {"task_loss", "kd_loss", "lambda", "kd_weight", "grad_norm_task", "grad_norm_kd", "grad_cosine"}
    assert names | {"lambda_skipped", "loss", "grad_norm"} <= logs[0].keys()
    for index, log in enumerate(logs):
        first, second = steps[2 * index], steps[2 * index + 1]
        for name in ("loss", "task_loss", "kd_loss"):
            assert log[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-5), "mean since the last log"
        assert log["lambda"] == second["lambda"]
        weighted = (1 - second["kd_weight"]) * second["task_loss"] + second["kd_weight"] * second["kd_loss"]
        assert second["loss"] == pytest.approx(weighted, rel=1e-5)
        assert second["kd_weight"] == pytest.approx(second["lambda"] / (1 + second["lambda"]), rel=1e-5)


# --- the fixed rule


class PlainTrainer(Trainer):
    """Distillation as one would write it by hand, with fixed weights."""

    model_accepts_loss_kwargs = False

    def __init__(self, *args, teacher, weights, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher, self.weights = teacher.eval(), weights
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        task, kd = reference.losses(model, self.teacher, inputs)
        return self.weights[0] * task + self.weights[1] * kd


@pytest.mark.parametrize(
    ("form", "kd_weight", "weights", "accumulation"),
    [
        pytest.param(*weighted, accumulation, marks=[pytest.mark.slow] * (accumulation == 2 and weighted[1] != 0.7))
        for weighted in [
            ("convex", 0.7, (0.3, 0.7)),
            ("convex", 1, (0, 1)),
            ("convex", 0, (1, 0)),
            ("additive", 3, (1, 3)),
        ]
        for accumulation in (1, 2)
    ],
)
def test_the_fixed_rule_equals_a_trainer_written_by_hand(tmp_path, form, kd_weight, weights, accumulation):
    teacher, student = models()
    twin = copy.deepcopy(student)
    shape = {"per_device_train_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    args = config(tmp_path, lambda_rule="fixed", lambda_form=form, kd_weight=kd_weight, **shape)
    plain = PlainTrainer(
        twin,
        args,
        teacher=teacher,
        weights=weights,
        train_dataset=examples(),
        data_collator=make_trainer(args, teacher, student, examples()).data_collator,
    )
    plain.train()
    trainer = train(args, teacher, student, examples())
    assert (flat(trainer.model) - flat(twin)).norm() < 1e-6 * flat(twin).norm()
    logs = trainer.state.log_history
    assert logged(logs, "loss") == pytest.approx(logged(plain.state.log_history, "loss"), rel=1e-5)
    assert logged(logs, "kd_weight") == [pytest.approx(kd_weight)] * STEPS
    expected = [pytest.approx(weights[1] / weights[0])] * STEPS if weights[0] else []
    assert logged(logs, "lambda") == expected, "an infinite λ is no JSON number and is left out"
    assert trainer.lambda_state is None
    assert logged(logs, "grad_norm_task") == []


# --- measurements that are not finite


def bad_on_call(number, value=float("nan")):
    """A task loss that is multiplied by `value` on one call."""
    calls = []

    def loss(outputs, labels, num_items_in_batch):
        calls.append(1)
        factor = value if len(calls) == number + 1 else 1.0
        return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch * factor

    return loss


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("accumulation", "call"), [(1, 2), (2, 4), (2, 5)])
def test_a_bad_batch_changes_neither_student_nor_lambda_and_is_counted(tmp_path, accumulation, call, bad):
    watch = Watch()
    shape = {"per_device_train_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    args = config(tmp_path, optim="adamw_torch", weight_decay=0.1, max_grad_norm=1.0, **shape)
    trainer = train(args, *models(), examples(), callbacks=[watch], compute_loss_func=bad_on_call(call, bad))
    logs = trainer.state.log_history
    assert logged(logs, "lambda_skipped") == [0, 0, 1, 1, 1, 1]
    lambdas = logged(logs, "lambda")
    assert lambdas[2] == lambdas[1]
    assert len(set(lambdas)) == STEPS - 1
    unchanged = [torch.equal(x, y) for x, y in zip(watch.weights, watch.weights[1:], strict=False)]
    assert unchanged == [False, False, True, False, False, False]
    assert flat(trainer.model).isfinite().all()
    assert not math.isfinite(logs[2]["task_loss"]), "the log hides nothing"


# --- fp16's gradient scaler


def train_scaled(folder, scaler, after_backward=None):
    """Train with a gradient scaler, as fp16 would, on the CPU; return the trainer and what `Watch` saw."""
    teacher, student = models()
    watch = Watch()
    trainer = make_trainer(config(folder), teacher, student, examples(), callbacks=[watch])
    trainer.accelerator.scaler = scaler
    if after_backward is not None:
        student.classifier.weight.register_hook(lambda grad: after_backward(trainer.state.global_step, grad))
    trainer.train()
    return trainer, watch


def test_a_gradient_scaler_changes_neither_lambda_nor_weights(tmp_path):
    plain = train(config(tmp_path), *models(), examples())
    scaled, _ = train_scaled(tmp_path, torch.amp.GradScaler("cpu", init_scale=1024.0))
    for name in ("lambda", "grad_norm_task", "grad_norm_kd", "task_loss", "loss"):
        assert logged(scaled.state.log_history, name) == pytest.approx(logged(plain.state.log_history, name), rel=1e-6)
    torch.testing.assert_close(flat(scaled.model), flat(plain.model), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"gram_metric": "adam", "optim": "adamw_torch", "adam_epsilon": 1e-4, "learning_rate": 1e-3},
        {"lambda_rule": "taylor2"},
        {"lambda_scope": "loss", "kd_losses": {"soft_targets": 1, "hidden_mse": 1}, "lambda_min": 1e-3},
    ],
    ids=["adam", "taylor2", "a λ for each loss"],
)
def test_a_scale_that_grows_changes_no_lambda_where_gradients_are_clipped(tmp_path, settings):
    settings = {**settings, "max_grad_norm": 1.0}
    plain = train(config(tmp_path, **settings), *models(), examples())
    scaled = make_trainer(config(tmp_path, **settings), *models(), examples())
    scaler = scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)

    def unscale(optimizer=None):
        """What Accelerate does before it clips, in a run in fp16."""
        inner = scaled.optimizer
        while hasattr(inner, "optimizer"):
            inner = inner.optimizer
        scaler.unscale_(inner)

    scaled.accelerator.unscale_gradients = unscale
    scaled.train()
    assert scaler.get_scale() > 1024
    lambdas = [logged(trainer.state.log_history, "lambda") for trainer in (scaled, plain)]
    assert lambdas[0] == pytest.approx(lambdas[1], rel=1e-4)


def test_an_overflow_lowers_the_scale_and_skips_step_and_lambda(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer, watch = train_scaled(tmp_path, scaler, lambda step, grad: grad * float("inf") if step == 2 else grad)
    assert scaler.get_scale() == 512
    assert logged(trainer.state.log_history, "lambda_skipped") == [0, 0, 1, 1, 1, 1]
    lambdas = logged(trainer.state.log_history, "lambda")
    assert lambdas[2] == lambdas[1]
    unchanged = [torch.equal(x, y) for x, y in zip(watch.weights, watch.weights[1:], strict=False)]
    assert unchanged == [False, False, True, False, False, False]
    assert flat(trainer.model).isfinite().all()


# --- which columns go to which model


def spy_on_inputs(model):
    seen = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    return seen


def test_columns_of_the_teacher_go_to_the_teacher_alone(tmp_path):
    _, student = models()
    teacher = tiny_bert(layers=1, vocab_size=50)
    data = examples(8).add_column("teacher_input_ids", [[7, 8]] * 8).add_column("teacher_attention_mask", [[1, 0]] * 8)
    trainer = make_trainer(config(tmp_path, remove_unused_columns=False), teacher, student, data)
    seen = {"teacher": spy_on_inputs(teacher), "student": spy_on_inputs(student)}
    trainer.train()
    trainer.evaluate(data)
    assert len(seen["teacher"]) == len(seen["student"]) == 2
    for teachers, students in zip(*seen.values(), strict=True):
        assert {name: value.tolist() for name, value in teachers.items()} == {
            "input_ids": [[7, 8]] * 8,
            "attention_mask": [[1, 0]] * 8,
        }
        assert students["input_ids"].tolist() == data["input_ids"][:]
        assert set(students) == {"input_ids", "attention_mask"}


def test_each_model_gets_the_columns_that_it_takes(tmp_path):
    teacher = tiny_bert(layers=1)
    student = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=95, dim=32, n_heads=2, hidden_dim=64, n_layers=1, num_labels=3)
    )
    data = examples(8).add_column("token_type_ids", [[0] * 5 + [1] * 5] * 8).add_column("idx", list(range(8)))
    trainer = make_trainer(config(tmp_path, remove_unused_columns=False), teacher, student, data)
    seen = {"teacher": spy_on_inputs(teacher), "student": spy_on_inputs(student)}
    trainer.train()
    assert set(seen["teacher"][0]) == {"input_ids", "attention_mask", "token_type_ids"}
    assert set(seen["student"][0]) == {"input_ids", "attention_mask"}


# --- evaluation


def manual_metrics(trainer, data):
    """Both losses, the agreement and the weighted loss, over all examples at once."""
    (batch,) = batches(data, len(data))
    trainer.model.eval()
    with torch.no_grad():
        task, kd = reference.losses(trainer.model, trainer.teacher, batch)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        student, teacher = trainer.model(**inputs).logits, trainer.teacher(**inputs).logits
    if student.shape[-1] == 1:
        agreement = torch.corrcoef(torch.cat([student, teacher], dim=1).T)[0, 1]
    else:
        agreement = (student.argmax(-1) == teacher.argmax(-1)).float().mean()
    task_weight, kd_weight = trainer.loss_weights
    return {
        "task_loss": task.item(),
        "kd_loss": kd.item(),
        "teacher_agreement": agreement.item(),
        "loss": (task_weight * task + kd_weight * kd).item(),
    }


@pytest.mark.parametrize("num_labels", [3, 1], ids=["classification", "regression"])
def test_evaluation_adds_losses_and_agreement_over_batches_of_any_size(tmp_path, num_labels):
    data = examples(STEPS * BATCH, num_labels)
    trainer = train(config(tmp_path, per_device_eval_batch_size=5), *models(num_labels), data)
    held_out = examples(12, num_labels)  # 5 + 5 + 2
    metrics = trainer.evaluate(held_out)
    expected = manual_metrics(trainer, held_out)
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert expected["task_loss"] != pytest.approx(expected["kd_loss"], rel=0.1)
    assert trainer.state.log_history[-1]["eval_teacher_agreement"] == metrics["eval_teacher_agreement"]


def test_predict_and_evaluate_do_not_mix(tmp_path):
    trainer = make_trainer(config(tmp_path, per_device_eval_batch_size=5), *models(), examples())
    some, others = examples().select(range(12)), examples().select(range(12, 30))
    test, evaluation = trainer.predict(some), trainer.evaluate(others)
    assert trainer.predict(some).metrics["test_kd_loss"] == test.metrics["test_kd_loss"]
    expected = manual_metrics(trainer, some)
    assert {name: test.metrics[f"test_{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert evaluation["eval_kd_loss"] == pytest.approx(manual_metrics(trainer, others)["kd_loss"], rel=1e-5)
    assert test.predictions.shape == (12, 3)


def test_evaluation_during_training_leaves_training_as_it_is(tmp_path):
    plain = train(config(tmp_path), *models(), examples())
    args = config(tmp_path, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=5, lambda_interval=1)
    evaluated = train(args, *models(), examples(), eval_dataset=examples(12))
    assert torch.equal(flat(evaluated.model), flat(plain.model))
    for name in ("lambda", "task_loss", "kd_loss"):
        assert logged(evaluated.state.log_history, name) == logged(plain.state.log_history, name)
    assert len(logged(evaluated.state.log_history, "eval_teacher_agreement")) == STEPS


def test_before_training_evaluation_weighs_both_losses_alike(tmp_path):
    trainer = make_trainer(config(tmp_path), *models(), examples())
    metrics = trainer.evaluate(examples(8))
    weighted = 0.5 * metrics["eval_task_loss"] + 0.5 * metrics["eval_kd_loss"]
    assert metrics["eval_loss"] == pytest.approx(weighted, rel=1e-5)


def test_the_loss_of_a_batch_needs_no_evaluation(tmp_path):
    trainer = make_trainer(config(tmp_path), *models(), examples())
    (batch,) = batches(examples(8))
    loss, outputs = trainer.compute_loss(trainer.model.eval(), batch, return_outputs=True)
    assert outputs.logits.shape == (8, 3)
    assert trainer.prediction_step(trainer.model, batch, False)[0] == pytest.approx(loss.item())
    assert trainer.evaluate(examples(8))["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_labels_that_are_unknown_can_still_be_predicted(tmp_path):
    trainer = make_trainer(config(tmp_path), *models(), examples())
    output, labelled = trainer.predict(examples(8).remove_columns("labels")), trainer.predict(examples(8))
    assert output.predictions == pytest.approx(labelled.predictions)
    assert output.label_ids is None
    for name in ("test_kd_loss", "test_teacher_agreement"):
        assert output.metrics[name] == pytest.approx(labelled.metrics[name])
    assert "test_task_loss" not in output.metrics


def test_without_labels_the_student_alone_predicts_where_the_teachers_outputs_cannot_be_had(tmp_path):
    unlabelled = examples(8).remove_columns("labels")
    own = examples(8).add_column("teacher_input_ids", [[7, 8]] * 8)
    given = examples(8).add_column("teacher_logits", [[0.0, 1.0, 2.0]] * 8)
    for teacher, data in ((models()[0], own), (None, given)):
        output = make_trainer(config(tmp_path), teacher, models()[1], data).predict(unlabelled)
        assert output.predictions.shape == (8, 3)
        assert "test_kd_loss" not in output.metrics


def test_a_teacher_with_its_own_tokenizer_never_gets_the_students_tokens(tmp_path):
    own = examples(8).add_column("teacher_input_ids", [[7, 8]] * 8).add_column("teacher_attention_mask", [[1, 1]] * 8)
    collate = DistillationCollator(tiny_tokenizer(), tiny_tokenizer())
    trainer = make_trainer(config(tmp_path), *models(), own, data_collator=collate)
    for evaluate in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="no column teacher_attention_mask or teacher_input_ids, which the t"):
            evaluate(examples(8))
    output = trainer.predict(examples(8).remove_columns("labels"))
    assert output.predictions.shape == (8, 3)
    assert "test_kd_loss" not in output.metrics


class Unlabelled(nn.Module):
    """A plain student whose `forward` takes no labels."""

    def __init__(self):
        super().__init__()
        self.config = models()[1].config
        self.layer = nn.Linear(10, 3)

    def forward(self, input_ids):
        return SequenceClassifierOutput(logits=self.layer(input_ids / 100))


def test_a_student_that_takes_no_labels_is_trained_and_evaluated(tmp_path):
    args = config(tmp_path, eval_strategy="epoch", metric_for_best_model="accuracy")
    trainer = make_trainer(
        args,
        models()[0],
        Unlabelled(),
        examples(),
        eval_dataset=examples(8),
        compute_metrics=lambda prediction: {
            "accuracy": (prediction.predictions.argmax(-1) == prediction.label_ids).mean()
        },
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert {"eval_accuracy", "eval_task_loss", "eval_kd_loss", "eval_teacher_agreement"} <= metrics.keys()
    assert trainer.predict(examples(8).remove_columns("labels")).predictions.shape == (8, 3)


def test_the_keys_and_values_of_a_decoder_are_no_predictions(tmp_path):
    sizes = {"vocab_size": len(VOCABULARY), "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    student = T5ForSequenceClassification(T5Config(**sizes, num_labels=3, eos_token_id=3, decoder_start_token_id=0))
    data = examples(8).map(lambda row: {"input_ids": [*row["input_ids"][:-1], 3]})
    seen = []
    args = config(tmp_path, metric_for_best_model="accuracy")
    trainer = make_trainer(
        args, models()[0], student, data, eval_dataset=data, compute_metrics=lambda output: seen.append(output) or {}
    )
    trainer.evaluate()
    logits, *states = seen[0].predictions
    assert logits.shape == (8, 3)
    assert len(states) == 1  # of the encoder


@pytest.mark.parametrize("interval", [1, 2])
def test_measuring_steps_empty_the_cache_of_an_accelerator_too(tmp_path, monkeypatch, interval):
    emptied = []
    for module in ("transformers.trainer", "hf_kd_lambda.trainer.trainer"):
        monkeypatch.setattr(f"{module}.clear_device_cache", lambda: emptied.append(1))
    train(config(tmp_path, max_steps=6, lambda_interval=interval, torch_empty_cache_steps=2), *models(), examples())
    assert len(emptied) == 3


# --- interrupted


class InterruptOnce(TrainerCallback):
    """Ctrl-C twice, between the micro-batches of the first optimizer step."""

    def on_substep_end(self, args, state, control, **kwargs):
        if not getattr(self, "done", False):
            self.done = True
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_step_leaves_nothing_behind(tmp_path):
    teacher, student = models()
    twin, data = copy.deepcopy(student), examples()
    args = config(tmp_path, per_device_train_batch_size=BATCH // 2, gradient_accumulation_steps=2)
    trainer = make_trainer(args, teacher, student, data, callbacks=[InterruptOnce()])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert signal.getsignal(signal.SIGINT) is before
    trainer.train()
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, reference_run(twin, teacher, data))


def test_an_error_in_training_gives_the_signals_back(tmp_path):
    def broken(outputs, labels, num_items_in_batch):
        raise RuntimeError("broken loss")

    signals = [signal.SIGTERM, signal.SIGINT]
    before = [signal.getsignal(number) for number in signals]
    with pytest.raises(RuntimeError, match="broken loss"):
        train(config(tmp_path), *models(), examples(), compute_loss_func=broken)
    assert [signal.getsignal(number) for number in signals] == before


# --- length-grouped batches


def test_batches_of_like_length_are_the_default_where_there_are_lengths(tmp_path):
    teacher, student = models()
    args = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = make_trainer(args, teacher, student, examples())
    assert isinstance(trainer.get_train_dataloader().batch_sampler.sampler, LengthGroupedSampler)


@pytest.mark.parametrize("labelled", [True, False])
def test_predictions_are_in_the_order_of_the_examples(tmp_path, labelled):
    teacher, student = models()
    settings = {"use_cpu": True, "report_to": "none", "per_device_eval_batch_size": 4}
    args = DistillationConfig(str(tmp_path), precision="fp32", **settings)
    data, seen = examples(24), []

    def compute_metrics(prediction):
        seen.append(prediction.label_ids.tolist())
        return {}

    trainer = make_trainer(args, teacher, student, data, eval_dataset=data, compute_metrics=compute_metrics)
    plain = Trainer(copy.deepcopy(student), TrainingArguments(str(tmp_path), **settings))
    asked = data if labelled else data.remove_columns("labels")
    assert trainer.predict(asked).predictions == pytest.approx(plain.predict(asked).predictions, abs=1e-6)
    trainer.evaluate()
    assert seen == [data["labels"]] * (1 + labelled)
    assert trainer.args.train_sampling_strategy == "group_by_length"


@pytest.mark.parametrize("rule", ["fixed", "adaptive"])
def test_a_second_run_logs_its_own_losses(tmp_path, rule):
    args = config(tmp_path, lambda_rule=rule, logging_steps=STEPS - 1, lambda_interval=3)
    trainer = make_trainer(args, *models(), examples())
    trainer.train()
    twin = make_trainer(args, trainer.teacher, copy.deepcopy(trainer.model), examples())
    if rule == "adaptive":
        twin.lambda_state.load_state_dict(trainer.lambda_state.state_dict())
    for run in (trainer, twin):
        run.train()
    for name in ("task_loss", "kd_loss"):
        again, fresh = (logged(run.state.log_history, name) for run in (trainer, twin))
        assert again == pytest.approx(fresh, rel=1e-5)


def test_examples_without_tokens_are_drawn_at_random(tmp_path):
    teacher, student = models()
    args = DistillationConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    data = examples().rename_column("input_ids", "inputs_embeds")
    trainer = make_trainer(args, teacher, student, data)
    assert trainer.args.train_sampling_strategy == "random"
    assert args.train_sampling_strategy == "group_by_length"


@pytest.mark.slow
@pytest.mark.parametrize("by_arguments", [True, False])
def test_a_compiled_student_has_the_same_lambda(tmp_path, by_arguments):
    plain = train(config(tmp_path), *models(), examples())
    teacher, student = models()
    if not by_arguments:
        student.compile()
        student(**batches(examples())[0]).loss.backward()  # with a backward pass that overwrites what it has read
        student.zero_grad()
    compiled = train(config(tmp_path, torch_compile=by_arguments), teacher, student, examples())
    expected = logged(plain.state.log_history, "lambda")
    assert logged(compiled.state.log_history, "lambda") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compiled", ["nothing", "the student", "a part", "the wrapped student"])
def test_gradients_of_embeddings_are_dense_where_torch_compiles(tmp_path, compiled):
    trainer = make_trainer(config(tmp_path), *models(), examples())
    trainer.create_optimizer()
    model = torch.compile(trainer.model, backend="eager") if compiled == "the wrapped student" else trainer.model
    if part := {"the student": model, "a part": model.bert.embeddings}.get(compiled):
        part.compile(backend="eager")
    step = MeasuringStep(model, trainer.optimizer, trainer.accelerator, trainer.args)
    assert step.takes_rows == (compiled == "nothing")


def test_what_others_have_compiled_has_two_backward_passes(tmp_path):
    with functorch.patch(donated_buffer=True):
        train(config(tmp_path, max_steps=1), *models(), examples())
        assert not functorch.donated_buffer
