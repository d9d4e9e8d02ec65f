"""Which predictions `trust` judges by from the second epoch on, and that they survive in checkpoints."""

import copy
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers.small_runs import config, examples, flat, logged, make_trainer, models, train
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.balancing.past_predictions import PastPredictions
from hf_kd_lambda.data.columns import EXAMPLE_ROW
from hf_kd_lambda.trainer import remember_predictions
from hf_kd_lambda.trainer.label_quality import can_judge
from hf_kd_lambda.trainer.measuring_step import MeasuringStep
from hf_kd_lambda.trainer.remember_predictions import PAST_PREDICTIONS, load_predictions

EPOCHS = 3
TRUST = {"lambda_rule": "trust", "num_train_epochs": EPOCHS, "train_sampling_strategy": "random"}


@pytest.fixture
def cached(tmp_path):
    return {**TRUST, "cache_teacher": True, "teacher_cache_dir": str(tmp_path / "cache")}


def judged_by(settings, folder, student=None, data=None, **kwargs):
    """A trained trainer; what the student predicted on each example, and what it was judged by: both by epoch."""
    data = data or examples()
    predicted, judged, observe, mean = [], [], ClassReliabilities.observe, PastPredictions.mean

    def spied_mean(self, rows, logits):
        predicted.append((rows, logits.softmax(-1)))
        return mean(self, rows, logits)

    def spied_observe(self, logits, *others):
        judged.append(logits.softmax(-1))
        return observe(self, logits, *others)

    with patch.object(PastPredictions, "mean", spied_mean), patch.object(ClassReliabilities, "observe", spied_observe):
        trainer = train(config(folder, **settings), models()[0], student or models()[1], data, **kwargs)
    rows = [rows for rows, _ in predicted]
    return trainer, *(by_epoch(rows, found, len(data)) for found in ([q for _, q in predicted], judged))


def by_epoch(rows, found, count):
    if not rows:
        return None
    whole, order = torch.cat(found).view(EPOCHS, count, -1), torch.cat(rows).view(EPOCHS, count)
    return torch.stack([part[order_of.argsort()] for part, order_of in zip(whole, order, strict=True)])


def test_trust_judges_by_the_mean_of_all_epochs(cached, tmp_path):
    trainer, predicted, judged = judged_by(cached, tmp_path)
    assert (predicted[0] - predicted[-1]).abs().max() > 0.01, "the student learned nothing"
    for epoch in range(EPOCHS):
        torch.testing.assert_close(judged[epoch], predicted[: epoch + 1].mean(0))
    past = trainer.balancer.past.past
    torch.testing.assert_close(past[:, :-1], predicted.sum(0))
    assert past[:, -1].tolist() == [EPOCHS] * len(examples())


def test_given_logits_are_as_good_as_cached_ones(cached, tmp_path):
    trainer = train(config(tmp_path / "first", **cached), *models(), examples())
    given = trainer.train_dataset.remove_columns(["teacher_inputs_digest", EXAMPLE_ROW])
    again = train(config(tmp_path / "again", **TRUST), None, models()[1], given)
    assert torch.equal(again.balancer.past.past, trainer.balancer.past.past)


@pytest.mark.parametrize(
    "settings",
    [{"cache_teacher": False}, {"lambda_rule": "evidence"}, {"lambda_rule": "fixed"}],
    ids=["teacher at each step", "votes", "fixed"],
)
def test_other_runs_remember_nothing(cached, tmp_path, settings):
    trainer, predicted, _ = judged_by(cached | settings, tmp_path)
    assert trainer.balancer.past is None
    assert predicted is None
    assert EXAMPLE_ROW not in trainer.train_dataset.column_names


def test_predictions_that_would_take_too_much_memory_are_not_remembered(cached, tmp_path, monkeypatch, caplog):
    size = 4 * len(examples()) * (3 + 1)
    monkeypatch.setattr(remember_predictions, "LARGEST", size - 1)
    trainer = train(config(tmp_path, **cached), *models(), examples())
    assert trainer.balancer.past is None
    assert trainer.predictions_size == 0
    assert "trust judges by the student's present predictions" in caplog.text
    monkeypatch.setattr(remember_predictions, "LARGEST", size)
    trainer.train()
    assert trainer.balancer.past is not None
    assert trainer.predictions_size == size


def test_label_sets_that_are_all_unknown_are_not_remembered(cached, tmp_path):
    (teacher, student), data = models(), examples()
    for model in (teacher, student):
        model.config.problem_type = "multi_label_classification"
    data = data.remove_columns("labels").add_column("labels", [None] * len(data))
    trainer = train(config(tmp_path, **cached), teacher, student, data)
    assert trainer.balancer.past is None
    assert not can_judge(trainer)


def test_a_regression_remembers_nothing(cached, tmp_path):
    trainer = train(config(tmp_path, **cached), *models(1), examples(num_labels=1))
    assert trainer.balancer.past is None


def test_a_second_run_begins_without_predictions(cached, tmp_path):
    trainer = train(config(tmp_path, **cached), *models(), examples())
    trainer.train_dataset = trainer.train_dataset.select(range(8, 24))
    trainer.train()
    assert trainer.balancer.past.past[:, -1].tolist() == [EPOCHS] * 16


@pytest.mark.parametrize("step", [6, 9, 15], ids=["after an epoch", "in the second epoch", "in the third epoch"])
def test_a_resumed_run_has_the_predictions(cached, tmp_path, step):
    settings = {**cached, "save_strategy": "steps", "save_steps": step}
    (teacher, student), data = models(), examples()
    whole = train(config(tmp_path / "run", **settings), teacher, copy.deepcopy(student), data)
    resumed = make_trainer(config(tmp_path / "run", **settings), teacher, copy.deepcopy(student), data)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert torch.equal(resumed.balancer.past.past, whole.balancer.past.past)
    assert torch.equal(flat(resumed.model), flat(whole.model))


def test_the_last_checkpoint_is_found(cached, tmp_path):
    settings = {**cached, "save_strategy": "steps", "save_steps": 9, "max_steps": 9}
    (teacher, student), data = models(), examples()
    train(config(tmp_path, **settings), teacher, copy.deepcopy(student), data)
    saved = load_file(tmp_path / "checkpoint-9" / PAST_PREDICTIONS)["past"]
    resumed = make_trainer(config(tmp_path, **settings | {"max_steps": 10}), teacher, copy.deepcopy(student), data)
    resumed.train(resume_from_checkpoint=True)
    assert (resumed.balancer.past.past[:, -1] - saved[:, -1]).sum() == 8


def test_a_checkpoint_without_predictions_is_resumed_with_a_warning(cached, tmp_path, caplog):
    settings = {**cached, "save_strategy": "steps", "save_steps": 9, "max_steps": 9}
    train(config(tmp_path, **settings), *models(), examples())
    (tmp_path / "checkpoint-9" / PAST_PREDICTIONS).unlink()
    resumed = make_trainer(config(tmp_path, **settings | {"max_steps": 10}), *models(), examples())
    resumed.train(resume_from_checkpoint=True)
    assert f"has no {PAST_PREDICTIONS}" in caplog.text
    assert resumed.balancer.past.past[:, -1].sum() == 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(bytes(100)),
        lambda file: save_file({"other": torch.zeros(1)}, file),
    ],
    ids=["truncated", "empty", "zeros", "of something else"],
)
def test_damaged_predictions_are_refused_by_name_with_the_fix(tmp_path, damage):
    file = tmp_path / PAST_PREDICTIONS
    save_file({"past": torch.zeros(5, 4)}, file)
    damage(file)
    with pytest.raises(ValueError, match=f"{PAST_PREDICTIONS} is damaged .*: resume from another .*, or delete"):
        load_predictions(PastPredictions(5, 3, torch.device("cpu")), tmp_path, "labels")


def test_predictions_on_other_examples_are_refused(cached, tmp_path):
    settings = {**cached, "save_strategy": "steps", "save_steps": 9, "max_steps": 9}
    train(config(tmp_path, **settings), *models(), examples())
    resumed = make_trainer(config(tmp_path, **settings), *models(), examples(40))
    with pytest.raises(
        ValueError, match=r"on 48 training examples with 3 classes, but this run has 40 with 3: resume"
    ):
        resumed.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("change", ["order", "labels", "texts"])
def test_predictions_on_other_examples_or_in_another_order_are_refused(cached, tmp_path, change):
    settings, data = {**cached, "save_strategy": "steps", "save_steps": 9, "max_steps": 9}, examples()
    train(config(tmp_path, **settings), *models(), data)
    labels = [(label + 1) % 3 for label in data["labels"]]
    other = {
        "order": data.shuffle(seed=0),
        "labels": data.remove_columns("labels").add_column("labels", labels),
        "texts": data.remove_columns("input_ids").add_column("input_ids", data["input_ids"][::-1]),
    }[change]
    resumed = make_trainer(config(tmp_path, **settings), *models(), other)
    with pytest.raises(
        ValueError, match="has predictions on other training examples, or in another order: resume with the"
    ):
        resumed.train(resume_from_checkpoint=True)


def test_a_resumed_run_without_cached_logits_says_what_it_forgets(cached, tmp_path, caplog):
    settings = {**cached, "save_strategy": "steps", "save_steps": 9, "max_steps": 9}
    train(config(tmp_path, **settings), *models(), examples())
    for rule in ("fixed", "trust"):
        assert "has predictions of earlier epochs, which trust does not use any more" not in caplog.text
        changed = {"cache_teacher": False, "lambda_rule": rule}
        resumed = make_trainer(config(tmp_path, **settings | changed), *models(), examples())
        resumed.train(resume_from_checkpoint=True)
    assert "has predictions of earlier epochs, which trust does not use any more" in caplog.text


@pytest.mark.parametrize("drops", [False, True])
def test_a_transform_must_return_the_positions(tmp_path, caplog, drops):
    def transform(batch):
        return {name: values for name, values in batch.items() if not (drops and name == EXAMPLE_ROW)}

    data = examples().add_column("teacher_logits", [[1.0, 2.0, 3.0]] * len(examples())).with_transform(transform)
    trainer = train(config(tmp_path, **TRUST), None, models()[1], data)
    assert (trainer.balancer.past is None) == drops
    assert (f"the transform of train_dataset drops the column {EXAMPLE_ROW}" in caplog.text) == drops
    assert drops or trainer.balancer.past.past[:, -1].tolist() == [EPOCHS] * len(data)


def test_a_model_that_cannot_be_resumed_is_saved_without_predictions(cached, tmp_path):
    settings = {**cached, "save_strategy": "steps", "save_steps": 9, "save_only_model": True}
    train(config(tmp_path, **settings), *models(), examples())
    assert (tmp_path / "checkpoint-9" / "model.safetensors").exists()
    assert not (tmp_path / "checkpoint-9" / PAST_PREDICTIONS).exists()


def test_predictions_are_written_before_a_checkpoint_counts_as_complete(cached, tmp_path):
    found, save_to_json = [], TrainerState.save_to_json

    def spied(self, path):
        found.append((Path(path).parent / PAST_PREDICTIONS).exists())
        save_to_json(self, path)

    with patch.object(TrainerState, "save_to_json", spied):
        train(config(tmp_path, **cached, save_strategy="epoch"), *models(), examples())
    assert found == [True] * EPOCHS


@contextmanager
def third_step_out_of_memory():
    """The third measuring step fails once, for want of memory, which must happen."""
    left, backward = [None, None, RuntimeError("CUDA out of memory.")], MeasuringStep.backward

    def fails_once(self, *args):
        if left and (error := left.pop(0)):
            raise error
        backward(self, *args)

    with patch.object(MeasuringStep, "backward", fails_once):
        yield
    assert not left


def test_a_run_that_begins_again_with_smaller_batches_counts_nothing_twice(cached, tmp_path):
    with third_step_out_of_memory():
        trainer = train(config(tmp_path, **cached, auto_find_batch_size=True), *models(), examples())
    assert trainer.balancer.past.past[:, -1].tolist() == [EPOCHS] * len(examples())
    assert trainer.lambda_state.trust.seen == 2 * 8 + len(examples()), "items of two whole steps, and of an epoch"


def test_a_run_that_begins_again_logs_nothing_of_its_first_steps(tmp_path):
    settings = {"learning_rate": 0.0, "logging_steps": 3, "max_steps": 3, "cache_teacher": False}
    with third_step_out_of_memory():
        again = train(config(tmp_path, **settings, auto_find_batch_size=True), *models(), examples())
    size = {"per_device_train_batch_size": again._train_batch_size}
    plain = train(config(tmp_path, **settings, **size), *models(), examples())
    for name in ("task_loss", "kd_loss"):
        assert logged(again.state.log_history, name) == pytest.approx(logged(plain.state.log_history, name))


def test_a_stream_with_given_logits_trains_and_remembers_nothing(tmp_path):
    data = examples().add_column("teacher_logits", [[1.0, 2.0, 3.0]] * len(examples()))
    settings = {"lambda_rule": "trust", "max_steps": 3}
    whole, streamed = (
        train(config(tmp_path, **settings), None, models()[1], rows) for rows in (data, data.to_iterable_dataset())
    )
    assert streamed.balancer.past is None
    torch.testing.assert_close(flat(streamed.model), flat(whole.model))
