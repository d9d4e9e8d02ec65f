"""The rule `trust` in training: against a plain loop, under accumulation, after resuming, and where it is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import reference
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
    train,
)

from hf_kd_lambda.balancing.number_trust import NumberReliabilities, numbers_of
from hf_kd_lambda.balancing.teacher_signal import TeacherSignal, count_signal
from hf_kd_lambda.balancing.trust import ClassReliabilities, item_trust, views_of
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.trainer.label_quality import can_judge, label_quality

TRUST = {"lambda_rule": "trust", "gram_decay": 0.0, "lambda_max_change": 100.0}


def judged(state, logits, soft, labels):
    """Trust in the items, and the counts for the M step."""
    if isinstance(state, NumberReliabilities):
        seen = numbers_of(logits, soft, item_labels(labels))
        posterior = state.posterior(seen)
        return posterior.trust, state.counts(seen, posterior)
    seen = views_of(logits, soft, item_labels(labels))
    parts = state.posterior(seen)
    trust = item_trust(seen, parts)
    return trust, state.counts(seen, parts, trust)


def item_losses(logits, soft, labels):
    """Task loss and KD loss of every item."""
    if logits.shape[-1] == 1:
        return (logits.squeeze(-1) - labels).square(), (logits - soft).squeeze(-1).square()
    log_student, target = (
        (logits / reference.TEMPERATURE).log_softmax(-1),
        (soft / reference.TEMPERATURE).softmax(-1),
    )
    divergence = F.kl_div(log_student, target, reduction="none").sum(-1)
    return F.cross_entropy(logits, labels, reduction="none"), reference.TEMPERATURE**2 * divergence


def plain_loop(student, teacher, data, state):
    """λ of each step; both losses are weighted by trust before their gradients are measured."""
    parameters, signal, lambdas = list(student.parameters()), TeacherSignal(), []
    for batch in batches(data):
        student.train()
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = student(**inputs).logits
        with torch.no_grad():
            soft = teacher(**inputs).logits
        trust, counts = judged(state, logits.detach(), soft, labels)
        weights = state.weights(trust)
        state.update(counts)
        signal.update(count_signal(TeacherBatch(soft), labels))
        losses = [
            (weight * loss).mean() for weight, loss in zip(weights, item_losses(logits, soft, labels), strict=True)
        ]
        task_grads, kd_grads = (reference.gradients(loss, parameters) for loss in losses)
        a, b, _ = reference.gram_of(task_grads, kd_grads)
        factor = signal.factor.item()
        lambdas.append(min(max(factor * (a / b) ** 0.5 * state.ratio.item(), factor * 0.1), 10.0))
        with torch.no_grad():
            for parameter, one, other in zip(parameters, task_grads, kd_grads, strict=True):
                parameter -= LEARNING_RATE * (one + lambdas[-1] * other) / (1 + lambdas[-1])
    return lambdas


@pytest.mark.parametrize(("num_labels", "state"), [(3, ClassReliabilities(3)), (1, NumberReliabilities())])
def test_a_run_equals_the_plain_loop(tmp_path, num_labels, state):
    teacher, student = models(num_labels)
    data, twin = examples(num_labels=num_labels), copy.deepcopy(student)
    trainer = train(config(tmp_path, **TRUST), teacher, student, data)
    lambdas = plain_loop(twin, teacher, data, state)
    history = trainer.state.log_history
    assert logged(history, "lambda") == pytest.approx(lambdas, rel=1e-5)
    assert logged(history, "label_reliability")[-1] == pytest.approx(state.label.item(), rel=1e-5)
    assert logged(history, "teacher_reliability")[-1] == pytest.approx(state.teacher.item(), rel=1e-5)
    torch.testing.assert_close(flat(trainer.model), flat(twin), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_labels", [3, 1])
def test_accumulation_changes_nothing(tmp_path, num_labels):
    teacher, student = models(num_labels)
    data = examples(num_labels=num_labels)
    whole = train(config(tmp_path / "whole", **TRUST), teacher, copy.deepcopy(student), data)
    parts = {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 4}
    cut = train(config(tmp_path / "cut", **TRUST, **parts), teacher, copy.deepcopy(student), data)
    for name in ("task_loss", "kd_loss", "lambda", "label_reliability"):
        expected = logged(whole.state.log_history, name)
        assert logged(cut.state.log_history, name) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(flat(cut.model), flat(whole.model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_labels", [3, 1])
@pytest.mark.parametrize("step", [4, 9], ids=["in the first pass", "in the second"])
def test_a_resumed_run_is_the_whole_one(tmp_path, step, num_labels):
    teacher, student = models(num_labels)
    data = examples(num_labels=num_labels)
    settings = {**TRUST, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": step}
    whole = train(config(tmp_path, **settings), teacher, copy.deepcopy(student), data)
    resumed = make_trainer(config(tmp_path, **settings), teacher, copy.deepcopy(student), data)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert torch.equal(flat(resumed.model), flat(whole.model))
    assert resumed.lambda_state.trust.state_dict() == whole.lambda_state.trust.state_dict()


def test_reliabilities_stay_as_they_are_after_the_first_pass(tmp_path):
    trainer = train(config(tmp_path, **TRUST, num_train_epochs=3), *models(), examples())
    found = logged(trainer.state.log_history, "label_reliability")
    assert len(set(found[:6])) == 6
    assert set(found[6:]) == {found[5]}


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
    assert state.label < 0.8 < state.teacher


def test_the_finished_student_judges_every_example(tmp_path):
    teacher, student = models()
    data = examples()
    args = config(tmp_path / "run", **TRUST, cache_teacher=True, teacher_cache_dir=str(tmp_path))
    trainer = train(args, teacher, student, data, eval_dataset=data.select(range(20)))
    assert can_judge(trainer)
    found = label_quality(trainer, ["a", "b", "c"])
    (batch,) = batches(data, len(data))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        logits, soft = trainer.model.eval()(**inputs).logits, teacher(**inputs).logits
    state = trainer.lambda_state.trust
    seen = views_of(logits, soft, item_labels(batch["labels"]))
    expected = item_trust(seen, state.posterior(seen))
    torch.testing.assert_close(torch.from_numpy(found.label_trust), expected.label, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(found.teacher_trust), expected.teacher, rtol=1e-4, atol=1e-5)
    assert found.labels.tolist() == batch["labels"].tolist()
    assert found.answers.tolist() == soft.argmax(-1).tolist()
    assert found.label_reliability == state.label.item()
    for one, outputs in zip(found.agreements, (soft, logits), strict=True):
        agrees = outputs.argmax(-1).eq(batch["labels"]).float()
        assert one.training == pytest.approx(agrees.mean().item())
        assert one.validation == pytest.approx(agrees[:20].mean().item())
        assert one.validation_labels == 20


def test_other_rules_and_examples_without_logits_are_not_judged(tmp_path):
    teacher, student = models()
    of_evidence = {"lambda_rule": "evidence", "cache_teacher": True, "teacher_cache_dir": str(tmp_path)}
    for settings in (of_evidence, {**TRUST, "cache_teacher": False}):
        args = config(tmp_path / "run", **settings, max_steps=1)
        assert not can_judge(train(args, teacher, copy.deepcopy(student), examples()))


def test_a_loss_whose_items_cannot_be_weighed_is_refused(tmp_path):
    own = {"compute_loss_func": lambda outputs, labels, num_items_in_batch: None}
    with pytest.raises(ValueError, match="leave either out"):
        make_trainer(config(tmp_path, **TRUST), *models(), examples(), **own)
