"""Several labels an example, and soft labels: both losses, λ and evaluation against the plain loop."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import reference
from helpers.label_kinds import KINDS, MULTI_LABEL, forward, label_sets, with_labels
from helpers.small_runs import (
    BATCH,
    STEPS,
    assert_same_run,
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    train,
)
from helpers.tiny import tiny_bert
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification, BertModel, BertPreTrainedModel, default_data_collator


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("accumulation", "cached"), [(1, True), (4, False)])
def test_a_run_equals_the_plain_loop_over_whole_batches(tmp_path, monkeypatch, caplog, kind, accumulation, cached):
    settings, data, losses = KINDS[kind]
    teacher, student = models(**settings)
    twin = copy.deepcopy(student)
    monkeypatch.setattr(reference, "losses", losses)
    loader = DataLoader(data(), BATCH, collate_fn=default_data_collator)
    steps = reference.run(twin, teacher, loader, torch.optim.SGD(twin.parameters(), 0.01))
    batch = {"per_device_train_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    args = config(tmp_path / "run", cache_teacher=cached, teacher_cache_dir=str(tmp_path), **batch)
    trainer = train(args, teacher, student, data())
    assert ("teacher_logits" in trainer.train_dataset.column_names) == cached
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)
    assert "computes from labels fails" not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["evidence", "trust"])
def test_votes_do_not_depend_on_how_a_batch_is_cut(tmp_path, kind, rule):
    settings, data, _ = KINDS[kind]
    lambdas = []
    for size in (BATCH, 2):
        batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": BATCH // size}
        args = config(tmp_path / str(size), lambda_rule=rule, cache_teacher=False, **batch)
        lambdas.append(logged(train(args, *models(**settings), data()).state.log_history, "lambda"))
    assert lambdas[0] == pytest.approx(lambdas[1], rel=1e-5)
    assert len(set(lambdas[0])) >= 4


def test_labels_are_the_same_in_every_way_to_write_them(tmp_path):
    rows = [None if all(x != x for x in row) else row for row in label_sets()["labels"]]
    codes = [row and [None if x != x else int(x) for x in row] for row in rows]
    ignored = [[-100] * 3 if row is None else [-100 if x is None else x for x in row] for row in codes]
    weights = []
    for labels in (label_sets()["labels"][:], codes, ignored):
        args = config(tmp_path, lambda_rule="fixed", cache_teacher=False)
        weights.append(flat(train(args, *models(**MULTI_LABEL), with_labels(labels)).model))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("form", [None, "torch"])
def test_soft_labels_may_be_integers(tmp_path, form):
    rows = [None if form is None and row == 0 else [row % 2, 0, 1 - row % 2] for row in range(STEPS * BATCH)]
    weights = []
    for labels in (rows, [row and [float(x) for x in row] for row in rows]):
        args = config(tmp_path, lambda_rule="trust", cache_teacher=False)
        weights.append(flat(train(args, *models(), with_labels(labels).with_format(form)).model))
    assert torch.equal(*weights)


class Tagger(BertPreTrainedModel):
    """A classifier of tokens whose name does not say so."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None):
        return self.classifier(self.bert(input_ids, attention_mask).last_hidden_state)


def test_classes_of_as_many_tokens_are_no_soft_labels(tmp_path):
    tokens = examples(8)["input_ids"]  # 10 of each
    data = examples(8).remove_columns("labels").add_column("labels", [[token % 10 for token in row] for row in tokens])
    sizes = tiny_bert(10, layers=1).config
    trainer = train(config(tmp_path), Tagger(sizes), Tagger(sizes), data)
    assert logged(trainer.state.log_history, "task_loss")[0] == pytest.approx(math.log(10), rel=0.1)


def test_predictions_are_those_of_a_plain_trainer_and_agreement_is_label_by_label(tmp_path):
    teacher, student = models(**MULTI_LABEL)
    seen = []
    trainer = make_trainer(
        config(tmp_path, cache_teacher=False),
        teacher,
        student,
        label_sets(),
        eval_dataset=label_sets(),
        compute_metrics=lambda output: seen.append(output) or {},
    )
    metrics = trainer.evaluate()
    assert seen[0].predictions.shape == seen[0].label_ids.shape == (STEPS * BATCH, 3)
    logits, soft, _ = forward(
        student.eval(), teacher, next(iter(DataLoader(label_sets(), 48, collate_fn=default_data_collator)))
    )
    torch.testing.assert_close(torch.from_numpy(seen[0].predictions), logits.detach(), rtol=1e-5, atol=1e-6)
    assert metrics["eval_teacher_agreement"] == pytest.approx(((logits > 0) == (soft > 0)).float().mean().item())


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        (MULTI_LABEL, [[0, 2, 1]] * 8, r"labels=\[0, 2, 1\] of an example: 2 is neither 1 nor 0"),
        (MULTI_LABEL, [[0.2, 0.8, 0.0]] * 8, "0.2 is neither 1 nor 0.*single_label_classification"),
        (MULTI_LABEL, [[0, 1]] * 8, "they are 2, the student's 3"),
        ({}, [[1.0, 1.0, 0.0]] * 8, "no distribution.*multi_label_classification"),
        ({}, [[1, 1, 0]] * 8, "no distribution"),
        ({}, [[1.5, -0.5, 0.0]] * 8, "no distribution"),
        ({}, [[0.5, math.nan, 0.5]] * 8, "no distribution"),
        ({}, [[0.5, 0.5]] * 8, "need one label per item"),
    ],
)
def test_other_labels_are_refused(tmp_path, settings, labels, message):
    for data in (with_labels(labels), [*with_labels(labels)]):
        with pytest.raises(ValueError, match=message):
            train(config(tmp_path, cache_teacher=False), *models(**settings), data)


def test_a_task_loss_of_ones_own_is_refused_with_several_labels(tmp_path):
    with pytest.raises(ValueError, match="compute_loss_func is not supported with problem_type='multi_label"):
        make_trainer(config(tmp_path), *models(**MULTI_LABEL), label_sets(), compute_loss_func=lambda *_, **__: 0)


class OfRareLabels(BertForSequenceClassification):
    """Computes a loss in which labels that are present weigh more."""

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        outputs = super().forward(input_ids, attention_mask=attention_mask)
        if labels is not None:
            outputs["loss"] = F.binary_cross_entropy_with_logits(outputs.logits, labels, pos_weight=torch.tensor(2.0))
        return outputs


def test_a_loss_of_the_students_own_is_not_replaced(tmp_path):
    teacher, student = models(**MULTI_LABEL)
    with pytest.raises(ValueError, match="OfRareLabels, computes a loss of its own, which would be replaced"):
        make_trainer(config(tmp_path), teacher, OfRareLabels(student.config), label_sets())


def test_several_labels_are_not_smoothed(tmp_path):
    """The Trainer says so in a warning."""
    weights = []
    for factor in (0.0, 0.3):
        args = config(tmp_path, label_smoothing_factor=factor, teacher_cache_dir=str(tmp_path))
        weights.append(flat(train(args, *models(**MULTI_LABEL), label_sets()).model))
    assert torch.equal(*weights)


def test_a_teacher_that_is_sure_of_no_label_is_not_called_uninformative(tmp_path, caplog):
    teacher, student = models(**MULTI_LABEL)
    torch.nn.init.zeros_(teacher.classifier.weight)
    torch.nn.init.constant_(teacher.classifier.bias, -6.0)
    trainer = make_trainer(config(tmp_path, teacher_cache_dir=str(tmp_path)), teacher, student, label_sets())
    assert trainer.cache_teacher()
    assert "can learn nothing from it" not in caplog.text


def test_sets_of_labels_that_are_unknown_can_still_be_predicted(tmp_path):
    def compute_metrics(output):
        raise AssertionError("there are no labels")

    without = label_sets().remove_columns("labels")
    trainer = train(config(tmp_path), *models(**MULTI_LABEL), without, compute_metrics=compute_metrics)
    assert all(value == 0 for value in logged(trainer.state.log_history, "task_loss"))
    assert all(value > 0 for value in logged(trainer.state.log_history, "kd_loss"))
    output = trainer.predict(without)
    assert output.predictions.shape == (len(without), 3)
    assert output.label_ids is None
    assert output.metrics["test_kd_loss"] > 0
    assert "test_task_loss" not in output.metrics


def test_kd_losses_of_logits_and_hidden_states_take_several_labels(tmp_path):
    losses = dict.fromkeys(["soft_targets", "reverse_kl", "jensen_shannon", "logit_mse", "dkd", "hidden_mse"], 1)
    args = config(tmp_path, kd_losses=losses, max_steps=2, cache_teacher=False)
    logs = train(args, *models(**MULTI_LABEL), label_sets()).state.log_history
    for loss in losses:
        values = logged(logs, f"kd_loss/{loss}")
        assert len(values) == 2, loss
        assert all(value > 0 for value in values), loss
