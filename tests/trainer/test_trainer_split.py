"""One λ for each KD loss: the step that is taken, what is logged, and what does not go with it."""

import copy
import itertools
import json

import pytest
import torch
from helpers.small_runs import (
    LEARNING_RATE,
    batches,
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    narrow_student,
)

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.balancing.kd_split import KDSplit
from hf_kd_lambda.balancing.rules.common_descent import MGDA
from hf_kd_lambda.balancing.rules.norm_based import Adaptive, Evidence, NormRatio, Trust
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.losses import functional as losses
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.losses.objective import NO_WEIGHTS
from hf_kd_lambda.trainer.config import DistillationConfig

LOSSES = {"soft_targets": 1.0, "hidden_mse": 0.5, "pkd": 0.25}
RULES = {"evidence": Evidence(), "trust": Trust(), "adaptive": Adaptive(), "norm_ratio": NormRatio(), "mgda": MGDA()}


def split_config(folder, **settings):
    return config(
        folder, **{"lambda_scope": "loss", "kd_losses": LOSSES, "lambda_min": 1e-3, "lambda_max": 1e3, **settings}
    )


def run(args, teacher=None, student=None, data=None, **kwargs):
    pair = models()
    trainer = make_trainer(args, teacher or pair[0], student or pair[1], data or examples(), **kwargs)
    trainer.train()
    return trainer


def initial_weights(student_logits, teacher_logits, labels):
    """Weights of the items by the rule `trust` at its first step."""
    state = ClassReliabilities(3)
    trusts, _ = state.judge(student_logits, [teacher_logits], item_labels(labels))
    return state.weights(*trusts)


def gradients_of(student, teacher, batch, rule="adaptive"):
    """The task loss and each of LOSSES without its weight, with their gradients `[4, parameters]`."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        theirs = teacher.eval()(**inputs, output_hidden_states=True)
    ours = student(**inputs, output_hidden_states=True)
    mask, labels, count = batch["attention_mask"], batch["labels"], len(batch["labels"])
    pairs = [(ours.hidden_states[s], theirs.hidden_states[t]) for s, t in ((1, 2), (2, 4))]
    of_items = initial_weights(ours.logits, theirs.logits, labels) if rule == "trust" else NO_WEIGHTS
    values = [
        losses.task_loss(ours.logits, labels, count, weights=of_items.task),
        losses.soft_target_loss(ours.logits, theirs.logits, labels, count, 2.0, weights=of_items.kd),
        sum(losses.hidden_mse_loss(s, t, mask, labels, count, weights=of_items.kd) for s, t in pairs) / 2,
        sum(losses.pkd_loss(s, t, mask, labels, count, weights=of_items.kd) for s, t in pairs) / 2,
    ]
    parameters = list(student.parameters())
    rows = []
    for value in values:
        grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)]
        rows.append(torch.cat([gradient.flatten() for gradient in filled]))
    return [value.item() for value in values], torch.stack(rows)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_is_that_of_the_plain_computation(tmp_path, rule):
    teacher, student = models()
    twin = copy.deepcopy(student)
    trainer = run(split_config(tmp_path, lambda_rule=rule, max_steps=1), teacher, student)

    _, grads = gradients_of(twin, teacher, batches(examples())[0], rule)
    split = KDSplit(list(LOSSES.values()), 0.9, mgda=rule == "mgda")
    split.update(grads @ grads.T)
    kd = split.weights @ grads[1:]
    judge = trainer.lambda_state.judge
    needs = {} if judge is None else judge.rule_inputs
    weights = RULES[rule].weights(Gram(grads[0] @ grads[0], kd @ kd, grads[0] @ kd), **needs)
    lambda_ = weights.kd / weights.task
    if judge is not None:
        lambda_ = trainer.lambda_state.teacher_signal.factor * lambda_
    step = (grads[0] + lambda_ * kd) / (1 + lambda_)
    moved = flat(twin) - flat(trainer.model)
    assert (moved - LEARNING_RATE * step).norm() < 1e-3 * moved.norm()
    for name, weight in zip(LOSSES, split.weights, strict=True):
        expected = (lambda_ * weight).item()
        assert logged(trainer.state.log_history, f"lambda/{name}") == [pytest.approx(expected, rel=1e-4, abs=1e-6)]
    assert logged(trainer.state.log_history, "lambda") == [pytest.approx(lambda_.item(), rel=1e-4)]


def test_mgda_steps_along_the_shortest_combination(tmp_path):
    teacher, student = models()
    twin = copy.deepcopy(student)
    trainer = run(split_config(tmp_path, lambda_rule="mgda", max_steps=1), teacher, student)
    _, grads = gradients_of(twin, teacher, batches(examples())[0])
    lambdas = [logged(trainer.state.log_history, f"lambda/{name}")[0] for name in LOSSES]
    weights = torch.tensor([1.0, *lambdas]) / (1 + sum(lambdas))
    shortest = weights @ grads
    assert shortest.norm() < 0.99 * grads.norm(dim=-1).min()
    assert (grads @ shortest >= (1 - 1e-3) * shortest.norm() ** 2).all()
    step = (flat(twin) - flat(trainer.model)) / LEARNING_RATE
    assert torch.cosine_similarity(step, shortest, dim=0) > 1 - 1e-6


@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_batches_change_nothing(tmp_path, accumulation):
    whole = run(split_config(tmp_path))
    micro = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    parts = run(split_config(tmp_path, **micro))
    for name in ("lambda", *(f"lambda/{name}" for name in LOSSES)):
        expected = logged(whole.state.log_history, name)
        assert len({round(value, 4) for value in expected}) > 3
        assert logged(parts.state.log_history, name) == pytest.approx(expected, rel=1e-4)
    assert (flat(whole.model) - flat(parts.model)).norm() < 1e-5 * flat(whole.model).norm()


def test_steps_between_measurements_descend_the_sum_in_force(tmp_path):
    trainer = run(split_config(tmp_path, lambda_interval=3))
    steps = [entry for entry in trainer.state.log_history if "lambda" in entry]
    for before, entry in itertools.pairwise(steps):
        weights = {name: before[f"lambda/{name}"] / before["lambda"] for name in LOSSES}
        total = sum(weight * entry[f"kd_loss/{name}"] for name, weight in weights.items())
        assert entry["kd_loss"] == pytest.approx(total, rel=1e-4)


def test_evaluations_are_compared_by_the_weights_of_the_settings(tmp_path):
    """Those in force change at every measurement, and `eval_kd_loss` with them for the same student."""
    trainer = run(split_config(tmp_path), eval_dataset=examples(12))
    last = [entry for entry in trainer.state.log_history if "lambda" in entry][-1]
    assert last["lambda/hidden_mse"] / last["lambda"] != pytest.approx(0.5, rel=0.05), "those in force are others"
    metrics = trainer.evaluate()
    total = sum(weight * metrics[f"eval_kd_loss/{name}"] for name, weight in LOSSES.items())
    assert metrics["eval_kd_loss"] == pytest.approx(total, rel=1e-4)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 3, "lambda_interval": 2, "optim": "adamw_torch"}
    whole = run(split_config(tmp_path, **settings))
    saved = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert "split" in saved["stateful_callbacks"]["LambdaCheckpoint"]["attributes"]["saved"]
    teacher, student = models()
    resumed = make_trainer(split_config(tmp_path, **settings), teacher, student, examples())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert torch.equal(flat(resumed.model), flat(whole.model))


def test_projections_are_trained_and_not_measured(tmp_path):
    teacher, student = models()[0], narrow_student()
    kd_losses = {"soft_targets": 1.0, "hidden_mse": 1.0}
    args = split_config(tmp_path, max_steps=1, lambda_rule="norm_ratio", kd_losses=kd_losses)
    trainer = make_trainer(args, teacher, student, examples())
    twin, batch = copy.deepcopy(student), batches(examples())[0]
    trainer.train()

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    theirs = teacher(**inputs, output_hidden_states=True)
    ours = twin(**inputs, output_hidden_states=True)
    pairs = [(ours.projected_states[s], theirs.hidden_states[t]) for s, t in ((1, 2), (2, 4))]
    of_student = [p for name, p in twin.named_parameters() if "projection" not in name]
    lengths = []
    for value in (
        losses.soft_target_loss(ours.logits, theirs.logits, batch["labels"], 8, 2.0),
        sum(losses.hidden_mse_loss(s, t, batch["attention_mask"], batch["labels"], 8) for s, t in pairs) / 2,
    ):
        grads = torch.autograd.grad(value, of_student, retain_graph=True, allow_unused=True)
        lengths.append(torch.cat([gradient.flatten() for gradient in grads if gradient is not None]).norm().item())
    soft, hidden = (logged(trainer.state.log_history, f"lambda/{name}")[0] for name in kd_losses)
    assert hidden / soft == pytest.approx(lengths[0] / lengths[1], rel=1e-4)
    moved = [
        n for n, p in student.named_parameters() if "projection" in n and not torch.equal(p, twin.get_parameter(n))
    ]
    assert moved


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lambda_rule": "pcgrad"}, "lambda_rule='pcgrad': choose one of norm_ratio, adaptive, mgda, evidence, trust"),
        ({"kd_losses": {"soft_targets": 1}}, r"kd_losses=\{'soft_targets': 1\}: name two or more"),
        ({"kd_losses": None}, "kd_losses=None: name two or more"),
        ({"gram_metric": "adam"}, "gram_metric='adam': set it to euclidean"),
        ({"gram_estimator": "unbiased"}, "gram_estimator='unbiased': set it to biased"),
    ],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(output_dir=str(tmp_path), **{"lambda_scope": "loss", "kd_losses": LOSSES, **settings})
