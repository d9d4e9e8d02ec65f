"""What the trainer gives the rules for λ, and what it does with their weights, against plain computations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from datasets import Value
from helpers import reference
from helpers.small_runs import (
    BATCH,
    LEARNING_RATE,
    STEPS,
    batches,
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    train,
)

from hf_kd_lambda.balancing.rules import RULES, rule_weights
from hf_kd_lambda.balancing.votes import soft_votes
from hf_kd_lambda.gradients.layer_groups import layer_groups
from hf_kd_lambda.trainer import strategy_checks

UNBOUND = {"gram_decay": 0.0, "lambda_max_change": 20.0, "lambda_min": 1e-6, "lambda_max": 1e6}
HALVES = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}


def gradients_of(student, teacher, batch):
    """Both gradients, as lists; zeros where a loss does not reach."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    student.train()
    grads = [reference.gradients(loss, parameters) for loss in reference.losses(student, teacher.eval(), batch)]
    return [
        [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, of_loss, strict=True)]
        for of_loss in grads
    ]


def dots(task, kd, scales=None):
    scales = scales or [1.0] * len(task)
    pairs = ((task, task), (kd, kd), (task, kd))
    return [
        sum((x * p * y).sum().item() for x, p, y in zip(left, scales, right, strict=True)) for left, right in pairs
    ]


# --- every rule


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains(tmp_path, rule):
    teacher, student = models()
    before = flat(student)
    trainer = train(config(tmp_path, lambda_rule=rule, num_train_epochs=2), teacher, student, examples())
    assert flat(trainer.model).isfinite().all()
    assert not torch.equal(flat(trainer.model), before)
    weights = logged(trainer.state.log_history, "kd_weight")
    assert len(weights) == 2 * STEPS
    assert all(0 <= weight <= 1 for weight in weights)
    assert (trainer.lambda_state is None) == (not RULES[rule].measures)


@pytest.mark.parametrize(
    ("rule", "form"),
    [
        pytest.param(rule, form, marks=[pytest.mark.slow] * (rule != "mgda" and form != "convex"))
        for rule in ("mgda", "pcgrad", "imtl_g", "nash", "aligned_mtl")
        for form in ("convex", "sum_two", "additive", "raw")
    ],
)
def test_the_first_step_is_along_the_weights_of_the_rule(tmp_path, rule, form):
    teacher, student = models()
    twin = copy.deepcopy(student)
    args = config(tmp_path, lambda_rule=rule, lambda_form=form, max_steps=1, **UNBOUND)
    trainer = train(args, teacher, student, examples())
    task, kd = gradients_of(twin, teacher, batches(examples())[0])
    w_task, w_kd = rule_weights(rule, *dots(task, kd))
    length = {"convex": 1.0, "sum_two": 2.0, "additive": (w_task + w_kd) / w_task, "raw": w_task + w_kd}[form]
    scale = length / (w_task + w_kd) * LEARNING_RATE
    step = torch.cat([(scale * (w_task * t + w_kd * k)).flatten() for t, k in zip(task, kd, strict=True)])
    torch.testing.assert_close(flat(twin) - flat(trainer.model), step, rtol=1e-3, atol=2e-7)


@pytest.mark.parametrize(
    ("rule", "kwargs", "expected"),
    [
        ("linear", {"start": 1.0, "end": 0.4}, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]),
        ("step", {"start": 0.9, "end": 0.2, "at": 0.5}, [0.9, 0.9, 0.9, 0.2, 0.2, 0.2]),
    ],
)
def test_a_schedule_sets_the_weight_of_each_step(tmp_path, rule, kwargs, expected):
    used = []
    trainer = make_trainer(config(tmp_path, lambda_rule=rule, lambda_rule_kwargs=kwargs), *models(), examples())
    plain = trainer.compute_loss

    def compute_loss(model, inputs, **kwargs):
        used.append(trainer.loss_weights[1].item())
        return plain(model, inputs, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    assert used == pytest.approx(expected)


# --- the optimizer's metric


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_adams_metric_measures_in_the_second_moments_of_the_step(tmp_path, max_grad_norm):
    teacher, student = models()
    twin = copy.deepcopy(student)
    adam = {"optim": "adamw_torch", "learning_rate": 1e-3, "adam_epsilon": 1e-4, "max_grad_norm": max_grad_norm}
    args = config(tmp_path, gram_metric="adam", lambda_rule="norm_ratio", **adam, **UNBOUND)
    logs = train(args, teacher, student, examples()).state.log_history
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3, eps=1e-4, weight_decay=0.0)
    lambdas = [1.0]
    for step, batch in enumerate(batches(examples()), start=1):
        task, kd = gradients_of(twin, teacher, batch)
        expected = combined(task, kd, lambdas[-1], max_grad_norm)  # of the λ in force before this measurement
        moments = [optimizer.state[p]["exp_avg_sq"] if optimizer.state[p] else 0.0 for p in twin.parameters()]
        moments = [0.999 * v + 0.001 * g.square() for v, g in zip(moments, expected, strict=True)]
        a, b, _ = dots(task, kd, [1 / ((v / (1 - 0.999**step)).sqrt() + 1e-4) for v in moments])
        lambdas.append((a / b) ** 0.5)
        for parameter, grad in zip(twin.parameters(), combined(task, kd, lambdas[-1], max_grad_norm), strict=True):
            parameter.grad = grad
        optimizer.step()
    assert logged(logs, "lambda") == pytest.approx(lambdas[1:], rel=1e-4)
    assert len({round(lambda_, 3) for lambda_ in lambdas}) == STEPS + 1


def combined(task, kd, lambda_, max_grad_norm):
    """(g_task + λ·g_kd)/(1 + λ), clipped."""
    grads = [(t + lambda_ * k) / (1 + lambda_) for t, k in zip(task, kd, strict=True)]
    norm = sum(grad.square().sum() for grad in grads).sqrt()
    return [grad * min(1.0, max_grad_norm / norm) if max_grad_norm else grad for grad in grads]


def given_optimizer(student, kind, how):
    """An optimizer of this class as the trainer's argument."""
    if how == "optimizers":
        return {"optimizers": (kind(student.parameters(), lr=0.1), None)}
    return {"optimizer_cls_and_kwargs": (kind, {"lr": 0.1})}


@pytest.mark.parametrize(
    ("optim", "given"), [("sgd", None), ("adafactor", None), ("adamw_torch", "class"), ("adamw_torch", "optimizers")]
)
def test_adams_metric_needs_adam_before_training(tmp_path, optim, given):
    teacher, student = models()
    kwargs = {} if given is None else given_optimizer(student, torch.optim.SGD, given)
    with pytest.raises(ValueError, match=r"^gram_metric='adam' needs .* set optim to adamw_torch"):
        make_trainer(config(tmp_path, gram_metric="adam", optim=optim), teacher, student, examples(), **kwargs)


def test_a_function_that_makes_an_optimizer_is_not_taken_for_adam(tmp_path):
    given = {"optimizer_cls_and_kwargs": (lambda *args, **kwargs: torch.optim.AdamW(*args, **kwargs), {"lr": 0.1})}
    make_trainer(config(tmp_path), *models(), examples(), **given)
    with pytest.raises(ValueError, match="gram_metric='adam' needs"):
        make_trainer(config(tmp_path, gram_metric="adam"), *models(), examples(), **given)


@pytest.mark.parametrize("given", ["class", "optimizers"])
def test_the_optimizer_that_is_given_counts_and_not_optim(tmp_path, given):
    teacher, student = models()
    kwargs = given_optimizer(student, torch.optim.AdamW, given)
    assert make_trainer(config(tmp_path, gram_metric="adam", optim="sgd"), teacher, student, examples(), **kwargs)


# --- without the noise of the batch


@pytest.mark.parametrize("unlabelled", [0, BATCH // 4], ids=["all labelled", "half of the second without a label"])
def test_micro_batches_give_the_unbiased_gram_matrix(tmp_path, unlabelled):
    data = examples()
    missing = range(BATCH // 2, BATCH // 2 + unlabelled)
    labels = [-100 if row in missing else label for row, label in enumerate(data["labels"])]
    data = data.remove_columns("labels").add_column("labels", labels)
    teacher, student = models()
    twin = copy.deepcopy(student)
    args = config(tmp_path, gram_estimator="unbiased", lambda_rule="norm_ratio", max_steps=1, **UNBOUND, **HALVES)
    log = train(args, teacher, student, data).state.log_history[0]
    halves = [gradients_of(twin, teacher, half) for half in batches(data, BATCH // 2)[:2]]
    # With two samples the U-statistic is the product of the one with the other.
    a, b = (sum((x * y).sum().item() for x, y in zip(halves[0][i], halves[1][i], strict=True)) for i in (0, 1))
    shares = (BATCH // 2 / (BATCH - unlabelled), 0.5)  # of the first half, in the items of each loss
    totals = [
        sum((share * x + (1 - share) * y).square().sum().item() for x, y in zip(*gradients, strict=True))
        for share, *gradients in zip(shares, *halves, strict=True)
    ]
    a, b = max(a, 0.01 * totals[0]), max(b, 0.01 * totals[1])
    assert log["lambda"] == pytest.approx((a / b) ** 0.5, rel=1e-4)
    assert log["snr_task"] == pytest.approx(a / (totals[0] - a), rel=1e-3)
    assert log["snr_kd"] == pytest.approx(b / (totals[1] - b), rel=1e-3)
    assert log["grad_norm_task"] == pytest.approx(totals[0] ** 0.5, rel=1e-5), "of the batch as it is"


def test_a_single_micro_batch_falls_back_and_says_so(tmp_path, warnings):
    plain = train(config(tmp_path, lambda_rule="snr"), *models(), examples())
    assert warnings() == []
    unbiased = train(config(tmp_path, lambda_rule="snr", gram_estimator="unbiased"), *models(), examples())
    assert logged(unbiased.state.log_history, "lambda") == pytest.approx(logged(plain.state.log_history, "lambda"))
    assert logged(unbiased.state.log_history, "snr_task") == []
    (warning,) = warnings()
    assert "raise gradient_accumulation_steps" in warning


@pytest.mark.parametrize(("momentum", "max_grad_norm"), [(0.0, 0.0), (0.9, 0.0), (0.0, 1.0), (0.9, 1.0), (0.0, 1e3)])
def test_taylor2_knows_how_far_momentum_and_clipping_take_a_step(tmp_path, momentum, max_grad_norm):
    args = config(
        tmp_path,
        lambda_rule="taylor2",
        max_steps=1,
        optim_args=f"momentum={momentum}",
        max_grad_norm=max_grad_norm,
    )
    trainer = train(args, *models(), examples())
    clipped = min(1.0, max_grad_norm / trainer.state.log_history[0]["grad_norm"]) if max_grad_norm else 1.0
    assert (clipped < 1) == (max_grad_norm == 1.0)
    rate = trainer.lambda_state.smoothness.learning_rate
    assert rate.item() == pytest.approx(LEARNING_RATE * clipped / (1 - momentum), rel=1e-5)


def test_taylor2_leaves_out_the_steps_around_a_batch_without_labels(tmp_path):
    data = examples()
    labels = [-100 if BATCH <= row < 2 * BATCH else label for row, label in enumerate(data["labels"])]
    data = data.remove_columns("labels").add_column("labels", labels)
    trainer = train(config(tmp_path, lambda_rule="taylor2", max_steps=4), *models(), data)
    assert trainer.lambda_state.smoothness.pairs == 1


@pytest.fixture
def warnings(monkeypatch):
    """What the checks have warned of since the last call."""
    seen = []
    monkeypatch.setattr(strategy_checks.logger, "warning", seen.append)

    def take():
        taken = seen.copy()
        seen.clear()
        return taken

    return take


@pytest.mark.parametrize(
    ("settings", "number"),
    [({"optim": "adamw_torch"}, 1), ({"optim": "adamw_torch", "gram_metric": "adam"}, 0), ({"optim": "sgd"}, 0)],
)
def test_taylor2_warns_of_a_metric_that_does_not_predict_the_losses(tmp_path, warnings, settings, number):
    make_trainer(config(tmp_path, lambda_rule="taylor2", **settings), *models(), examples())
    assert len(warnings()) == number


# --- one λ for each layer


def test_each_layer_has_a_lambda_of_its_own(tmp_path):
    teacher, student = models()
    twin = copy.deepcopy(student)
    args = config(tmp_path, lambda_scope="layer", lambda_rule="norm_ratio", **UNBOUND)
    trainer = train(args, teacher, student, examples())
    names = [name for name, _ in twin.named_parameters()]
    members, groups = layer_groups(names)
    assert groups == ["embeddings", "layer.0", "layer.1", "head"]
    lambdas = {group: [] for group in groups}
    for batch in batches(examples()):
        task, kd = gradients_of(twin, teacher, batch)
        of_group = []
        for number, group in enumerate(groups):
            own = [index for index, member in enumerate(members) if member == number]
            a, b, _ = dots([task[i] for i in own], [kd[i] for i in own])
            of_group.append((a / b) ** 0.5)
            lambdas[group].append(of_group[-1])
        with torch.no_grad():
            for parameter, t, k, member in zip(twin.parameters(), task, kd, members, strict=True):
                parameter -= LEARNING_RATE * (t + of_group[member] * k) / (1 + of_group[member])
    for group in groups:
        assert logged(trainer.state.log_history, f"lambda/{group}") == pytest.approx(lambdas[group], rel=1e-5)
    assert (flat(trainer.model) - flat(twin)).norm() < 1e-6 * flat(twin).norm()
    means = [torch.tensor(of_step).log().mean().exp().item() for of_step in zip(*lambdas.values(), strict=True)]
    assert logged(trainer.state.log_history, "lambda") == pytest.approx(means, rel=1e-5)


# --- evidence


def test_the_student_votes_before_it_learns_and_in_the_first_pass_only(tmp_path):
    teacher, student = models()
    batch = batches(examples())[0]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        votes = soft_votes(student(**inputs).logits, teacher(**inputs).logits, batch["labels"])
    trainer = make_trainer(config(tmp_path, lambda_rule="evidence", num_train_epochs=2), teacher, student, examples())
    trainer.train()
    logs = trainer.state.log_history
    teachers, labels = logged(logs, "evidence_teacher"), logged(logs, "evidence_label")
    assert [teachers[0], labels[0]] == pytest.approx(votes.tolist(), rel=1e-5)
    assert len(set(teachers[:STEPS])) == STEPS
    assert set(teachers[STEPS:]) == {teachers[STEPS - 1]}, "examples seen before are no evidence"
    assert logged(logs, "odds")[-1] == pytest.approx((teachers[-1] + 5) / (labels[-1] + 5), rel=1e-5)


def test_a_student_that_knows_all_examples_votes_no_more(tmp_path):
    trainer = make_trainer(config(tmp_path, lambda_rule="evidence"), *models(), examples())
    trainer.train()
    before = trainer.lambda_state.votes.state_dict()
    assert before["closed"]
    trainer.train()
    assert trainer.lambda_state.votes.state_dict() == before


def test_a_run_that_ended_within_its_first_pass_leaves_the_next_one_its_votes(tmp_path):
    trainer = make_trainer(config(tmp_path, lambda_rule="evidence", max_steps=1), *models(), examples())
    trainer.train()
    before = trainer.lambda_state.votes.seen.item()
    trainer.args.max_steps = STEPS
    trainer.train()
    assert trainer.lambda_state.votes.seen.item() > before


def test_a_run_resumed_where_its_second_pass_begins_takes_no_votes(tmp_path):
    settings = {"lambda_rule": "evidence", "num_train_epochs": 2, "save_strategy": "steps", "save_steps": STEPS}
    teacher, student = models()
    whole = train(config(tmp_path, **settings), teacher, student, examples())
    resumed = make_trainer(config(tmp_path, **settings), *models(), examples())
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS}"))
    votes = [logged(trainer.state.log_history, "evidence_teacher") for trainer in (whole, resumed)]
    assert votes[0] == votes[1]
    assert set(votes[1][STEPS:]) == {votes[1][STEPS - 1]}


@pytest.mark.parametrize(
    "settings",
    [
        {"lambda_rule": "taylor2", "lambda_scope": "layer", "gram_metric": "adam"},
        {"lambda_rule": "gradnorm", "lambda_interval": 2},
        {"lambda_rule": "snr", "gram_estimator": "unbiased", **HALVES},
    ],
    ids=lambda settings: settings["lambda_rule"],
)
def test_a_resumed_run_ends_as_one_that_was_not(tmp_path, settings):
    settings |= {"optim": "adamw_torch", "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 3}
    whole = train(config(tmp_path, **settings), *models(), examples())
    resumed = make_trainer(config(tmp_path, **settings), *models(), examples())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(flat(resumed.model), flat(whole.model))
    lambdas = [logged(trainer.state.log_history, "lambda") for trainer in (whole, resumed)]
    assert lambdas[0] == lambdas[1]
    assert len(set(lambdas[0])) > 2


def test_examples_of_a_stream_vote_in_its_first_pass_alone(tmp_path):
    args = config(tmp_path, lambda_rule="evidence", max_steps=2 * STEPS)
    trainer = train(args, *models(), examples().to_iterable_dataset())
    votes = logged(trainer.state.log_history, "evidence_teacher")
    assert len(votes) == 2 * STEPS
    assert len(set(votes)) == STEPS
    assert set(votes[STEPS:]) == {votes[STEPS - 1]}


def test_a_regression_votes_as_well(tmp_path):
    data = examples(num_labels=1)
    teacher, student = models(num_labels=1)
    batch = batches(data)[0]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        expected = soft_votes(student(**inputs).logits, teacher(**inputs).logits, batch["labels"])
    logs = train(config(tmp_path, lambda_rule="evidence"), teacher, student, data).state.log_history
    assert logged(logs, "evidence_teacher")[0] == pytest.approx(expected[0].item(), rel=1e-5)
    assert len(set(logged(logs, "odds"))) == STEPS


@pytest.mark.parametrize(("size", "warned"), [(4, True), (8, False)])
def test_micro_batches_too_small_for_a_spread_are_warned_of(tmp_path, warnings, size, warned):
    args = config(tmp_path, lambda_rule="evidence", per_device_train_batch_size=size)
    make_trainer(args, *models(num_labels=1), examples(num_labels=1))
    found = ["raise per_device_train_batch_size, or set lambda_rule" in warning for warning in warnings()]
    assert found == [True] * warned


def numbers_loss(outputs, labels, num_items_in_batch):
    return (outputs.logits[:, 0] - labels).square().sum() / num_items_in_batch


def test_labels_that_are_no_classes_are_refused_before_a_step(tmp_path):
    data = examples().cast_column("labels", Value("float32"))
    args = config(tmp_path, lambda_rule="evidence")
    trainer = make_trainer(args, *models(), data, compute_loss_func=numbers_loss)
    with pytest.raises(ValueError, match=r"they are torch.float32 for 3 classes: set lambda_rule to adaptive"):
        trainer.train()
    assert trainer.state.global_step == 0
    train(config(tmp_path, lambda_rule="adaptive"), *models(), data, compute_loss_func=numbers_loss)


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (1, r"labels have shape \[8, 1\], but .* item: give labels of shape \[8\]"),
        (3, r"soft labels \[1.0, 1.0, 1.0\] of an example are no distribution: give shares"),
    ],
    ids=["a list of one", "of all classes"],
)
def test_labels_of_several_numbers_are_refused_before_a_step(tmp_path, width, message):
    data = examples().map(lambda example: {"labels": [float(example["labels"])] * width})

    def task_loss(outputs, labels, num_items_in_batch):
        return (outputs.logits - labels).square().sum() / num_items_in_batch

    teacher, student = models(width)
    before = flat(student)
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path), teacher, student, data, compute_loss_func=task_loss)
    assert torch.equal(flat(student), before)


def test_a_run_that_failed_before_its_first_step_leaves_all_votes_to_the_next(tmp_path):
    failures = iter([True])

    def task_loss(outputs, labels, num_items_in_batch):
        if next(failures, False):
            raise RuntimeError("out of memory")
        return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    args, data = config(tmp_path, lambda_rule="evidence"), examples()
    teacher, student = models()
    whole = train(args, teacher, copy.deepcopy(student), data)
    trainer = make_trainer(args, teacher, student, data, compute_loss_func=task_loss)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    trainer.train()
    assert trainer.lambda_state.votes.state_dict() == whole.lambda_state.votes.state_dict()


def test_votes_are_counted_between_measurements_too(tmp_path):
    every = train(config(tmp_path, lambda_rule="evidence", lambda_min=1.0, lambda_max=1.0), *models(), examples())
    args = config(tmp_path, lambda_rule="evidence", lambda_min=1.0, lambda_max=1.0, lambda_interval=5)
    some = train(args, *models(), examples())
    cast = [trainer.lambda_state.votes.seen.item() for trainer in (every, some)]
    assert cast[0] == pytest.approx(cast[1], rel=1e-4)


# --- why λ is as it is


def test_logs_show_what_limited_lambda(tmp_path):
    logs = train(config(tmp_path, lambda_min=1.9, lambda_max_change=0.02), *models(), examples()).state.log_history
    for log in logs[:STEPS]:
        names = ("free", "clipped", "floor", "ceiling", "slowed", "held", "skipped_share")
        assert sum(log[f"lambda_{name}"] for name in names) == pytest.approx(1)
        assert log["lambda_conflict"] == (log["grad_cosine"] < 0)
        assert (log["lambda_floor"] == 1) == (log["lambda"] == pytest.approx(1.9))
    assert sum(log["lambda_slowed"] for log in logs[:STEPS]) >= 1
