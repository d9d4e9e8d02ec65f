"""Examples without a label train through the KD loss alone; each loss counts its own items."""

import copy

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import (
    BATCH,
    NO_DROPOUT,
    assert_same_run,
    batches,
    config,
    examples,
    flat,
    logged,
    make_trainer,
    models,
    partly_labelled,
    reference_run,
    train,
)
from helpers.tiny import SIZES
from transformers import BertConfig, BertForTokenClassification

from hf_kd_lambda import explain_lambda
from hf_kd_lambda.losses.functional.labels import UNLABELLED, item_labels


def test_each_loss_is_the_mean_over_its_own_items(tmp_path):
    teacher, student = models()
    twin = copy.deepcopy(student)
    trainer = train(config(tmp_path), teacher, student, partly_labelled())
    steps = reference_run(twin, teacher, partly_labelled())
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)
    labelled_twin = models()[1]
    assert reference_run(labelled_twin, teacher, examples())[0].task_loss != pytest.approx(
        steps[0].task_loss, rel=1e-3
    )


@pytest.mark.parametrize("settings", [{}, {"lambda_rule": "fixed", "kd_weight": 0.3}], ids=["adaptive", "fixed"])
def test_accumulation_changes_nothing(tmp_path, settings):
    teacher, student = models()
    whole = train(config(tmp_path / "whole", **settings), teacher, copy.deepcopy(student), partly_labelled())
    parts = {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 4, **settings}
    cut = train(config(tmp_path / "cut", **parts), teacher, copy.deepcopy(student), partly_labelled())
    for name in ("task_loss", "kd_loss", "lambda"):
        expected = logged(whole.state.log_history, name)
        assert logged(cut.state.log_history, name) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(flat(cut.model), flat(whole.model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("column", ["label", "labels"])
def test_integers_of_a_regression_may_be_missing(tmp_path, column):
    weights = []
    for kind in (int, float):
        rows = partly_labelled(None, 1).remove_columns("labels").to_list()
        for number, row in enumerate(rows):
            row[column] = None if number % 3 == 1 else kind(number % 4)
        data = Dataset.from_list(rows)
        args = config(tmp_path, lambda_rule="fixed", teacher_cache_dir=str(tmp_path))
        weights.append(flat(train(args, *models(1), data).model))
    assert torch.equal(*weights)
    assert weights[0].isfinite().all()


@pytest.mark.parametrize("num_labels", [3, 1], ids=["classes", "regression"])
def test_a_missing_label_is_none_or_minus_100(tmp_path, num_labels):
    variants = [None, float("nan")] if num_labels == 1 else [None, -100]
    weights = []
    for missing in variants:
        teacher, student = models(num_labels)
        rows = partly_labelled(missing, num_labels).to_list()
        data = Dataset.from_list(rows)
        trainer = train(config(tmp_path, lambda_rule="fixed"), teacher, student, data)
        weights.append(flat(trainer.model))
    assert torch.equal(*weights)
    assert weights[0].isfinite().all()


def test_a_student_learns_from_the_teacher_alone(tmp_path):
    teacher, student = models()
    before = flat(student)
    trainer = train(config(tmp_path), teacher, student, examples().remove_columns("labels"))
    assert set(logged(trainer.state.log_history, "task_loss")) == {0.0}
    kd_losses = logged(trainer.state.log_history, "kd_loss")
    assert kd_losses[-1] < kd_losses[0]
    assert len(set(logged(trainer.state.log_history, "lambda"))) == 1, "without a task gradient λ is kept"
    assert logged(trainer.state.log_history, "lambda_held")[-1] == 1
    assert not torch.equal(before, flat(trainer.model))


@pytest.mark.parametrize(("missing", "num_labels"), [(None, 3), (float("nan"), 1)], ids=["classes", "regression"])
def test_labels_that_are_all_missing_have_no_reliability(tmp_path, missing, num_labels):
    data = examples(num_labels=num_labels).remove_columns("labels")
    trainer = train(config(tmp_path, lambda_rule="trust"), *models(num_labels), data)
    assert logged(trainer.state.log_history, "teacher_reliability")
    assert not logged(trainer.state.log_history, "label_reliability")
    assert explain_lambda(trainer.state.log_history).startswith("No training example has a label: ")
    some = train(
        config(tmp_path / "some", lambda_rule="trust"), *models(num_labels), partly_labelled(missing, num_labels)
    )
    assert logged(some.state.log_history, "label_reliability")
    assert explain_lambda(some.state.log_history).startswith("λ ")


def test_lambda_is_explained_where_most_batches_have_no_label(tmp_path):
    labels = [label if row < BATCH else None for row, label in enumerate(examples()["labels"])]
    data = examples().remove_columns("labels").add_column("labels", labels)
    trainer = train(config(tmp_path), *models(), data)
    assert logged(trainer.state.log_history, "lambda_held") == [0.0, *[1.0] * 5]
    words = explain_lambda(trainer.state.log_history)
    assert "unchanged (a gradient is zero) in 83%" in words
    assert "there is nothing to balance in batches without labels" in words


def test_layers_are_compared_without_labels_too(tmp_path):
    args = config(tmp_path, lambda_rule="fixed", kd_losses={"soft_targets": 1.0, "hidden_mse": 0.5}, max_steps=1)
    values = []
    for data in (examples(), examples().remove_columns("labels")):
        values += logged(train(args, *models(), data).state.log_history, "kd_loss/hidden_mse")
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert values[0] > 0


def test_tokens_without_a_mask_and_labels_are_all_learned(tmp_path):
    config_of = BertConfig(**SIZES, num_labels=3, num_hidden_layers=1, **NO_DROPOUT)
    teacher, student = BertForTokenClassification(config_of), BertForTokenClassification(config_of)
    weights = []
    for columns in ("labels", ["labels", "attention_mask"]):
        args = config(tmp_path, max_steps=1, cache_teacher=False)
        data = examples().remove_columns(columns)
        weights.append(flat(train(args, teacher, copy.deepcopy(student), data).model))
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], flat(student))


def test_evaluation_counts_the_items_of_each_loss(tmp_path):
    teacher, student = models()
    data = partly_labelled()
    trainer = make_trainer(config(tmp_path, per_device_eval_batch_size=5), teacher, student, data, eval_dataset=data)
    found = trainer.evaluate()
    labelled = data.filter(lambda row: row["labels"] >= 0)
    assert found["eval_task_loss"] == pytest.approx(trainer.evaluate(labelled)["eval_task_loss"], rel=1e-5)
    everything = trainer.evaluate(examples())["eval_kd_loss"]
    assert found["eval_kd_loss"] == pytest.approx(everything, rel=1e-5)
    assert everything != pytest.approx(trainer.evaluate(labelled)["eval_kd_loss"], rel=1e-3)


@pytest.mark.parametrize(("across_ranks", "expected"), [(True, [7, 16]), (False, [5, 8])])
def test_the_items_of_other_ranks_count_as_set(tmp_path, monkeypatch, across_ranks, expected):
    trainer = make_trainer(config(tmp_path), *models(), partly_labelled())
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda counts, _: counts + torch.tensor([2, 8]))
    trainer.args.average_tokens_across_devices, trainer.state.max_steps = across_ranks, 1
    _, counts = trainer.get_batch_samples(iter(batches(partly_labelled())), 1, torch.device("cpu"))
    assert counts.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "task", "kd", "counts"),
    [
        ([0, -100, 2, -101], [0, -100, 2, -100], [0, 0, 2, 0], [2, 4]),
        ([0.5, float("nan"), -100.0], [0.5, -100.0, -100.0], [0.5, 0.0, 0.0], [1, 3]),
        ([[1, -100], [-101, -100]], [[1, -100], [-100, -100]], [[1, -100], [0, -100]], [1, 2]),
    ],
    ids=["examples", "numbers", "tokens"],
)
def test_which_items_each_loss_counts(labels, task, kd, counts):
    items = item_labels(torch.tensor(labels))
    assert items.task.tolist() == task
    assert items.kd.tolist() == kd
    assert items.counts.tolist() == counts
    assert UNLABELLED == -101
