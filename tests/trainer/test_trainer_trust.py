"""The rule `trust` in training: against a plain loop, under accumulation, after resuming, and where it is refused."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import reference
from helpers.label_kinds import KINDS as LABEL_KINDS
from helpers.small_runs import (
    BATCH,
    LEARNING_RATE,
    batches,
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    partly_labelled,
    several_teachers,
    train,
)
from helpers.tiny_spans import collate, partly_answered, span_models
from transformers import default_data_collator

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.balancing.number_trust import NumberReliabilities, numbers_of, unit_of
from hf_kd_lambda.balancing.teacher_signal import TeacherSignal, count_signal
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.models.ensemble import Ensemble, members_of
from hf_kd_lambda.trainer.label_quality import can_judge, label_quality

TRUST = {"lambda_rule": "trust", "gram_decay": 0.0, "lambda_max_change": 100.0}


KINDS = {
    "classes": lambda: models(3),
    "numbers": lambda: models(1),
    "several teachers": lambda: (several_teachers(), models()[1]),
}
"""Teacher and student."""


NAN = float("nan")


def data_of(kind):
    return examples(num_labels=1 if kind == "numbers" else 3)


def judged(state, logits, teachers, labels):
    """Weights of the items, and the counts for the M step."""
    if isinstance(state, NumberReliabilities):
        seen = numbers_of(logits, *teachers, item_labels(labels), state.unit)
        posterior = state.posterior(seen)
        return state.weights(posterior.trust), state.counts(seen, posterior)
    trusts, counts = state.judge(logits, teachers, item_labels(labels))
    return state.weights(*trusts), counts


def item_losses(logits, soft, labels):
    """Task loss and KD loss of every item; any number as the task loss of an item without a label."""
    if logits.shape[-1] == 1:
        return (logits.squeeze(-1) - labels).square(), (logits - soft).squeeze(-1).square()
    log_student, target = (
        (logits / reference.TEMPERATURE).log_softmax(-1),
        (soft / reference.TEMPERATURE).softmax(-1),
    )
    divergence = F.kl_div(log_student, target, reduction="none").sum(-1)
    return F.cross_entropy(logits, labels, reduction="none"), reference.TEMPERATURE**2 * divergence


def trust_ratio(state):
    """β/α, for classes divided by √(1 − β), which is at least 0.25."""
    alpha, beta = state.alpha.item(), state.beta.item()
    return beta / alpha / (1.0 if isinstance(state, NumberReliabilities) else max(1 - beta, 0.0625) ** 0.5)


def plain_loop(student, teacher, data, state):
    """λ of each step; both losses are weighted by trust before their gradients are measured.

    Trust itself is the package's, see tests/balancing.
    """
    parameters, signal, lambdas = list(student.parameters()), TeacherSignal(), []
    for batch in batches(data):
        student.train()
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = student(**inputs).logits
        with torch.no_grad():
            teachers = [member(**inputs).logits for member in members_of(teacher)]
        weights, counts = judged(state, logits.detach(), teachers, labels)
        soft = teachers[0]
        if weights.teachers is not None:
            soft = (weights.teachers.unsqueeze(-1) * torch.stack(teachers, dim=1)).sum(1)
        state.update(counts)
        items = item_labels(labels)
        signal.update(count_signal(TeacherBatch(soft), items.kd))
        losses = [
            (weight * loss).sum() / count
            for *parts, count in zip(weights[:2], item_losses(logits, soft, items.task), items.counts, strict=True)
            for weight, loss in [parts]
        ]
        task_grads, kd_grads = (reference.gradients(loss, parameters) for loss in losses)
        a, b, _ = reference.gram_of(task_grads, kd_grads)
        factor = signal.factor.item()
        lambdas.append(min(max(factor * (a / b) ** 0.5 * trust_ratio(state), factor * 0.1), 10.0))
        with torch.no_grad():
            for parameter, one, other in zip(parameters, task_grads, kd_grads, strict=True):
                parameter -= LEARNING_RATE * (one + lambdas[-1] * other) / (1 + lambdas[-1])
    return lambdas


@pytest.mark.parametrize(
    ("kind", "missing"),
    [("classes", None), ("classes", -100), ("numbers", None), ("numbers", NAN), ("several teachers", None)],
)
def test_a_run_equals_the_plain_loop(tmp_path, kind, missing):
    (teacher, student), data = KINDS[kind](), data_of(kind)
    if missing is not None:
        data = partly_labelled(missing, num_labels=student.config.num_labels)
    if kind == "numbers":
        labels = np.array(data["labels"])
        state = NumberReliabilities(unit=unit_of(labels[~np.isnan(labels)]))
    else:
        state = ClassReliabilities(3, teacher_weights=(0.25, 0.75) if kind == "several teachers" else (1.0,))
    twin = copy.deepcopy(student)
    trainer = train(config(tmp_path, **TRUST), teacher, student, data)
    lambdas = plain_loop(twin, teacher, data, state)
    history = trainer.state.log_history
    assert logged(history, "lambda") == pytest.approx(lambdas, rel=1e-5)
    assert logged(history, "label_reliability")[-1] == pytest.approx(state.alpha.item(), rel=1e-5)
    assert logged(history, "teacher_reliability")[-1] == pytest.approx(state.beta.item(), rel=1e-5)
    own = [values[-1] for index in range(2) if (values := logged(history, f"teacher_reliability_{index}"))]
    assert own == (pytest.approx([b.item() for b in state.betas]) if kind == "several teachers" else [])
    torch.testing.assert_close(flat(trainer.model), flat(twin), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_changes_nothing(tmp_path, kind):
    (teacher, student), data = KINDS[kind](), data_of(kind)
    whole = train(config(tmp_path / "whole", **TRUST), teacher, copy.deepcopy(student), data)
    parts = {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 4}
    cut = train(config(tmp_path / "cut", **TRUST, **parts), teacher, copy.deepcopy(student), data)
    for name in ("task_loss", "kd_loss", "lambda", "label_reliability"):
        expected = logged(whole.state.log_history, name)
        # The KD loss of the regression falls to a hundredth of the first; rounding does not.
        rounding = 1e-6 * max(expected)
        assert logged(cut.state.log_history, name) == pytest.approx(expected, rel=1e-5, abs=rounding)
    torch.testing.assert_close(flat(cut.model), flat(whole.model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [4, 9], ids=["in the first pass", "in the second"])
def test_a_resumed_run_is_the_whole_one(tmp_path, step, kind):
    (teacher, student), data = KINDS[kind](), data_of(kind)
    settings = {**TRUST, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": step}
    whole = train(config(tmp_path, **settings), teacher, copy.deepcopy(student), data)
    resumed = make_trainer(config(tmp_path, **settings), teacher, copy.deepcopy(student), data)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert torch.equal(flat(resumed.model), flat(whole.model))
    assert resumed.lambda_state.trust.state_dict() == whole.lambda_state.trust.state_dict()


def test_a_run_with_other_teachers_is_not_resumed(tmp_path):
    (teacher, student), data = KINDS["several teachers"](), data_of("several teachers")
    args = config(tmp_path, **TRUST, save_strategy="steps", save_steps=4)
    train(args, teacher, copy.deepcopy(student), data)
    other = make_trainer(args, teacher.members[0], student, data)
    with pytest.raises(ValueError, match=r"'teachers': \[0.25, 0.75\]\}, and this run's .*'teachers': None"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def several_of(kind):
    """Several teachers, a student, examples and the arguments of a trainer for a kind of items."""
    if kind == "questions":
        first, student = span_models()
        data, more = partly_answered(), {"data_collator": collate}
    else:
        fields, data_of_kind, _ = LABEL_KINDS.get(kind, ({}, examples, None))
        (first, student), data, more = models(**fields), data_of_kind(), {}
    second = copy.deepcopy(first)
    for parameter in second.parameters():
        parameter.data *= 1.1
    return Ensemble([first, second], [1, 3]), student, data, more


@pytest.mark.parametrize("kind", ["classes", "several labels", "soft labels", "questions"])
def test_the_logits_of_several_teachers_are_cached_one_by_one(tmp_path, kind):
    teacher, student, data, more = several_of(kind)
    settings = {**TRUST, "eval_strategy": "epoch"}
    kept = {"cache_teacher": True, "teacher_cache_dir": str(tmp_path / "cache")}
    at_each_step, cached = (
        train(config(tmp_path, **settings, **way), teacher, copy.deepcopy(student), data, eval_dataset=data, **more)
        for way in ({"cache_teacher": False}, kept)
    )
    torch.testing.assert_close(flat(cached.model), flat(at_each_step.model), rtol=1e-5, atol=1e-7)
    for name in ("lambda", "teacher_reliability_0", "teacher_reliability_1", "eval_kd_loss"):
        expected = logged(at_each_step.state.log_history, name)
        assert expected
        assert logged(cached.state.log_history, name) == pytest.approx(expected, rel=1e-5)
    # The columns are enough for another run, without the teachers.
    alone = train(config(tmp_path, **TRUST), None, student, cached.train_dataset, **more)
    assert torch.equal(flat(alone.model), flat(cached.model))


def test_logits_in_the_examples_are_one_teacher(tmp_path):
    (teacher, student), data = KINDS["several teachers"](), data_of("several teachers")
    with torch.no_grad():
        logits = teacher(**{n: v for n, v in batches(data, len(data))[0].items() if n != "labels"})["logits"]
    data = data.add_column("teacher_logits", logits.tolist())
    trainer = train(config(tmp_path, **TRUST, max_steps=2), teacher, student, data)
    assert len(trainer.lambda_state.trust.betas) == 1


def test_an_evaluation_of_other_examples_uses_their_own_logits(tmp_path):
    (teacher, student), data = KINDS["several teachers"](), data_of("several teachers")
    kept = {"cache_teacher": True, "teacher_cache_dir": str(tmp_path / "cache")}
    trainer = train(config(tmp_path, **TRUST, **kept), teacher, student, data)
    of_student = torch.from_numpy(trainer.predict(data).predictions)
    inputs = {name: values for name, values in batches(data, len(data))[0].items() if name != "labels"}
    with torch.no_grad():
        logits = torch.stack([member(**inputs).logits for member in teacher.members], dim=-1)
    state = trainer.lambda_state.trust
    state.annotators[2, 0] = 0.0  # as if the second teacher knew next to nothing
    weights = torch.stack(state.betas) * torch.tensor([0.25, 0.75])
    expected = reference.mean_kd_loss(of_student, logits @ (weights / weights.sum())).item()
    assert trainer.evaluate(data)["eval_kd_loss"] == pytest.approx(expected, rel=1e-5)
    given = data.add_column("teacher_logits", of_student.tolist())
    assert trainer.evaluate(given)["eval_kd_loss"] == pytest.approx(0, abs=1e-6)
    trainer.teacher = None
    with pytest.raises(ValueError, match="no column teacher_outputs, and teacher is None"):
        trainer.evaluate(given)


def test_other_rules_learn_from_the_mean(tmp_path):
    (teacher, student), data = KINDS["several teachers"](), data_of("several teachers")
    args = config(tmp_path / "run", cache_teacher=True, teacher_cache_dir=str(tmp_path), max_steps=1)
    trainer = train(args, teacher, student, data)
    assert "teacher_outputs" not in trainer.train_dataset.column_names


def test_reliabilities_stay_as_they_are_after_the_first_pass(tmp_path):
    trainer = train(config(tmp_path, **TRUST, num_train_epochs=3), *models(), examples())
    found = logged(trainer.state.log_history, "label_reliability")
    assert len(set(found[:6])) == 6
    assert set(found[6:]) == {found[5]}


def standardised(rows):
    return {**rows, "labels": [(price - 250_000) / 150_000 for price in rows["labels"]]}


def collate_standardised(rows):
    batch = default_data_collator(rows)
    return {**batch, "labels": (batch["labels"] - 250_000) / 150_000}


@pytest.mark.parametrize("by", ["transform", "collator"])
def test_numbers_that_batches_change_are_judged_as_they_are_in_batches(tmp_path, by):
    prices = examples(num_labels=1).map(lambda row: {"labels": 100_000 * row["labels"]})
    reliabilities = []
    for name, data, collator in [
        ("mapped", prices.map(standardised, batched=True), default_data_collator),
        ("transform", prices.with_transform(standardised), default_data_collator),
        ("collator", prices, collate_standardised),
    ]:
        if name in ("mapped", by):
            args = config(tmp_path / name, **TRUST, cache_teacher=False)
            trainer = train(args, *models(1), data, data_collator=collator)
            reliabilities.append(logged(trainer.state.log_history, "label_reliability"))
    assert reliabilities[1] == pytest.approx(reliabilities[0], abs=1e-4)


def test_wrong_labels_and_a_wrong_teacher_get_little_weight(tmp_path):
    teacher, student = models()
    data = examples(200)
    with torch.no_grad():
        answers = teacher(**{n: v for n, v in batches(data, 200)[0].items() if n != "labels"}).logits.argmax(-1)
    # The labels are the teacher's answers, a third of them moved to another class.
    labels = [(answer + (row % 3 == 0)) % 3 for row, answer in enumerate(answers.tolist())]
    data = data.remove_columns("labels").add_column("labels", labels)
    args = config(tmp_path, **TRUST, learning_rate=0.1, num_train_epochs=1)
    trainer = train(args, teacher, student, data)
    state = trainer.lambda_state.trust
    assert state.alpha < 0.8 < state.beta


@pytest.mark.parametrize("kind", ["classes", "several teachers"])
def test_the_finished_student_judges_every_example(tmp_path, kind):
    (teacher, student), data = KINDS[kind](), data_of(kind)
    args = config(tmp_path / "run", **TRUST, cache_teacher=True, teacher_cache_dir=str(tmp_path))
    trainer = train(args, teacher, student, data, eval_dataset=data.select(range(20)))
    assert can_judge(trainer)
    found = label_quality(trainer, ["a", "b", "c"])
    (batch,) = batches(data, len(data))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = trainer.model.eval()(**inputs).logits
        teachers = [member(**inputs).logits for member in members_of(teacher)]
    state = trainer.lambda_state.trust
    trusts, _ = state.judge(logits, teachers, item_labels(batch["labels"]))
    of_teachers, weights = state.mean([trust.teacher for trust in trusts]), state.weights(*trusts)
    soft = TeacherBatch(teachers[0], members=tuple(teachers)).mixed(weights.teachers).logits
    torch.testing.assert_close(torch.from_numpy(found.label_trust), trusts[0].label, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(found.teacher_trust), of_teachers, rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == batch["labels"].tolist()
    assert found.answers.tolist() == soft.argmax(-1).tolist()
    assert found.label_reliability == state.alpha.item()
    assert found.teachers == ([] if kind == "classes" else [value.item() for value in state.betas])
    mean = sum(weight * logits for weight, logits in zip(state.teacher_weights, teachers, strict=True))
    for one, outputs in zip(found.agreements, (mean, logits), strict=True):
        agrees = outputs.argmax(-1).eq(batch["labels"]).float()
        assert one.training == pytest.approx(agrees.mean().item())
        assert one.validation == pytest.approx(agrees[:20].mean().item())
        assert one.validation_labels == 20


@pytest.mark.parametrize(
    "changed",
    [
        {"dataloader_drop_last": True},
        {"prediction_loss_only": True},
        {"eval_do_concat_batches": False},
        {"label_names": ["labels", "other"]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_evaluations_leave_out_is_judged(tmp_path, changed):
    settings = {**TRUST, "cache_teacher": True, "teacher_cache_dir": str(tmp_path), "per_device_eval_batch_size": 7}
    found = []
    for given in ({}, changed):
        kwargs = {"preprocess_logits_for_metrics": lambda logits, labels: logits.argmax(-1)} if given else {}
        trainer = train(config(tmp_path / "run", **settings, **given), *models(), examples(), **kwargs)
        found.append(label_quality(trainer, ["a", "b", "c"]))
        assert all(getattr(trainer.args, name) == value for name, value in given.items())
        assert (trainer.preprocess_logits_for_metrics is None) == (not given)
    assert len(found[1].label_trust) == len(examples())
    assert found[1].label_trust.tolist() == pytest.approx(found[0].label_trust.tolist())


def test_labels_that_no_batch_has_are_missing(tmp_path):
    data = examples().add_column("teacher_logits", [[1.0, 2.0, 3.0]] * len(examples()))
    shown = data.with_format("torch", columns=["input_ids", "attention_mask", "teacher_logits"])
    trainer = train(config(tmp_path, **TRUST, max_steps=1), None, models()[1], shown)
    assert set(label_quality(trainer, "abc").labels.tolist()) == {-100}


def test_a_label_of_minus_101_is_missing_as_one_of_minus_100(tmp_path):
    data = partly_labelled(-101)
    args = config(tmp_path / "run", **TRUST, cache_teacher=True, teacher_cache_dir=str(tmp_path), max_steps=1)
    found = label_quality(train(args, *models(), data, eval_dataset=data), ["a", "b", "c"])
    assert found.labels.tolist() == partly_labelled(-100)["labels"][:]
    assert {one.training_labels for one in found.agreements} == {int((found.labels >= 0).sum())}


def test_other_rules_and_examples_without_logits_are_not_judged(tmp_path):
    teacher, student = models()
    of_evidence = {"lambda_rule": "evidence", "cache_teacher": True, "teacher_cache_dir": str(tmp_path)}
    for settings in (of_evidence, {**TRUST, "cache_teacher": False}):
        args = config(tmp_path / "run", **settings, max_steps=1)
        assert not can_judge(train(args, teacher, copy.deepcopy(student), examples()))


def test_examples_without_a_column_of_labels_are_not_judged(tmp_path):
    teacher, student = models()
    kept = {**TRUST, "cache_teacher": True, "teacher_cache_dir": str(tmp_path), "max_steps": 1}
    unlabelled = examples().remove_columns("labels")
    assert not can_judge(train(config(tmp_path / "none", **kept), teacher, copy.deepcopy(student), unlabelled))
    settings = config(tmp_path / "validation", **kept)
    assert not label_quality(train(settings, teacher, student, examples(), eval_dataset=unlabelled), "abc").agreements


@pytest.mark.parametrize("rule", ["trust", "fixed"])
def test_labels_are_not_judged_before_training_or_with_another_rule(tmp_path, rule):
    trainer = make_trainer(config(tmp_path, lambda_rule=rule), *models(), examples())
    with pytest.raises(ValueError, match=f"after its training, with lambda_rule='trust', here '{rule}'"):
        label_quality(trainer, "abc")


def test_a_loss_whose_items_cannot_be_weighed_is_refused(tmp_path):
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch: None}
    with pytest.raises(ValueError, match="set lambda_rule to evidence or adaptive, or leave compute_loss_func out"):
        make_trainer(config(tmp_path, **TRUST), *models(), examples(), **own)
