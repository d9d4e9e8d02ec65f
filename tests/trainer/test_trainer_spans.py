"""Question answering: start and end are two items over the positions, in both losses, in λ and in evaluation."""

import copy

import pytest
import torch
from helpers import reference
from helpers.small_runs import BATCH, LEARNING_RATE, assert_same_run, config, flat, logged
from helpers.tiny import tiny_bert, tiny_tokenizer
from helpers.tiny_spans import (
    padded_batches,
    span_losses,
    span_models,
    span_trainer,
    windows,
)
from transformers import BertForQuestionAnswering

from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.trainer.trainer import DistillationTrainer


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("cached", [True, False])
def test_a_run_equals_the_plain_loop_over_whole_batches(tmp_path, monkeypatch, accumulation, cached):
    teacher, student = span_models()
    twin = copy.deepcopy(student)
    monkeypatch.setattr(reference, "losses", span_losses)
    steps = reference.run(twin, teacher, padded_batches(windows()), torch.optim.SGD(twin.parameters(), LEARNING_RATE))
    batch = {"per_device_train_batch_size": BATCH // accumulation, "gradient_accumulation_steps": accumulation}
    trainer = span_trainer(
        tmp_path / "run", teacher, student, cache_teacher=cached, teacher_cache_dir=str(tmp_path), **batch
    )
    trainer.train()
    assert ("teacher_logits" in trainer.train_dataset.column_names) == cached
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)


def test_the_task_loss_is_the_models_own_where_all_tokens_may_be_answers(tmp_path):
    teacher, student = span_models()
    data = windows().remove_columns("answer_mask").filter(lambda row: len(row["input_ids"]) == 12)
    (batch, *_) = padded_batches(data)
    expected = copy.deepcopy(student)(**batch).loss.item()
    trainer = span_trainer(tmp_path, teacher, student, data, max_steps=1, cache_teacher=False)
    trainer.train()
    assert logged(trainer.state.log_history, "task_loss") == [pytest.approx(expected, rel=1e-6)]


@pytest.mark.parametrize("rule", ["evidence", "trust", "mgda"])
def test_padding_changes_nothing(tmp_path, rule):
    """The same windows in batches of unlike lengths and one by one."""
    runs = []
    for size in (BATCH, 1):
        teacher, student = span_models()
        batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": BATCH // size}
        trainer = span_trainer(
            tmp_path / f"{rule}{size}", teacher, student, lambda_rule=rule, cache_teacher=False, max_steps=3, **batch
        )
        trainer.train()
        runs.append((logged(trainer.state.log_history, "lambda"), flat(trainer.model)))
    (lambdas, weights), (alone, weights_alone) = runs
    assert lambdas == pytest.approx(alone, rel=1e-5)
    assert torch.allclose(weights, weights_alone, atol=1e-6)


def test_losses_of_hidden_states_and_logits_are_all_finite(tmp_path):
    teacher, student = span_models()
    losses = {"soft_targets": 1, "reverse_kl": 1, "jensen_shannon": 1, "logit_mse": 1, "dkd": 1, "hidden_mse": 1}
    trainer = span_trainer(tmp_path, teacher, student, kd_losses=losses, max_steps=2, cache_teacher=False)
    trainer.train()
    for name in losses:
        values = torch.tensor(logged(trainer.state.log_history, f"kd_loss/{name}"))
        assert len(values) == 2
        assert (values > 0).all()
        assert values.isfinite().all()


def test_windows_without_an_answer_train_through_kd_alone(tmp_path):
    teacher, student = span_models()
    unlabelled = windows(BATCH).map(lambda row: {"start_positions": None, "end_positions": None})
    trainer = span_trainer(tmp_path, teacher, student, unlabelled, max_steps=1, cache_teacher=False)
    trainer.train()
    assert logged(trainer.state.log_history, "task_loss") == [0.0]
    assert logged(trainer.state.log_history, "kd_loss")[0] > 0


def test_a_column_of_classes_that_answers_do_not_read_may_be_there(tmp_path):
    data = windows().remove_columns("answer_mask").filter(lambda row: len(row["input_ids"]) == 12)
    teacher, student = span_models()
    args = config(tmp_path, max_steps=1, cache_teacher=False)
    given = {"teacher": teacher, "processing_class": tiny_tokenizer()}
    weights = []
    for examples in (data, data.add_column("label", [9] * len(data))):
        trainer = DistillationTrainer(copy.deepcopy(student), args, train_dataset=examples, **given)
        trainer.train()
        weights.append(flat(trainer.model))
    assert torch.equal(*weights)


def test_windows_whose_labels_have_other_names_are_warned_of_or_refused(tmp_path, caplog):
    data = windows(BATCH).rename_column("start_positions", "start_position")
    span_trainer(tmp_path, *span_models(), data)
    assert "train_dataset gives no labels" in caplog.text
    assert "rename the labels to 'start_positions'." in caplog.text
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    with pytest.raises(ValueError, match="metric_for_best_model='task_loss': eval_dataset has no label"):
        span_trainer(tmp_path, *span_models(), kwargs={"eval_dataset": data}, **best)


def test_windows_without_positions_are_evaluated_by_the_kd_loss(tmp_path):
    data = windows(BATCH)
    trainer = span_trainer(tmp_path, *span_models(), data)
    labelled = trainer.predict(data)
    found = trainer.predict(data.remove_columns(["start_positions", "end_positions"]))
    assert found.metrics["test_kd_loss"] == pytest.approx(labelled.metrics["test_kd_loss"])
    assert [logits.shape for logits in found.predictions] == [logits.shape for logits in labelled.predictions]
    assert found.label_ids is None


def test_evaluation_gives_the_predictions_and_labels_of_transformers(tmp_path):
    teacher, student = span_models()
    data = windows(BATCH)
    trainer = span_trainer(tmp_path, teacher, student, per_device_eval_batch_size=BATCH)
    output = trainer.predict(data)
    (batch,) = padded_batches(data)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = student.eval()(**inputs)
    for found, name in zip(output.predictions, ("start_logits", "end_logits"), strict=True):
        assert torch.allclose(torch.from_numpy(found), expected[name], atol=1e-6)
    assert [labels.tolist() for labels in output.label_ids] == [data["start_positions"], data["end_positions"]]
    task, kd = span_losses(student, teacher, batch)
    assert output.metrics["test_task_loss"] == pytest.approx(task.item(), rel=1e-5)
    assert output.metrics["test_kd_loss"] == pytest.approx(kd.item(), rel=1e-5)
    answers = teacher(**inputs)
    agree = []
    for name in ("start_logits", "end_logits"):
        possible = [
            outputs[name].masked_fill(~batch["answer_mask"].bool(), -torch.inf) for outputs in (expected, answers)
        ]
        agree.append(possible[0].argmax(-1) == possible[1].argmax(-1))
    assert output.metrics["test_teacher_agreement"] == pytest.approx(torch.stack(agree).float().mean().item())


def test_a_teacher_of_another_task_is_refused(tmp_path):
    _, student = span_models()
    with pytest.raises(
        ValueError, match="is for question answering, but the teacher, a BertForSequenceClassification"
    ):
        span_trainer(tmp_path, tiny_bert(2), student)


class Halved(BertForQuestionAnswering):
    """A student that minimises half of the usual loss."""

    def forward(self, input_ids=None, attention_mask=None, start_positions=None, end_positions=None):
        ends = {"start_positions": start_positions, "end_positions": end_positions}
        outputs = super().forward(input_ids, attention_mask, **ends)
        outputs.loss = None if outputs.loss is None else outputs.loss / 2
        return outputs


def test_a_student_with_a_loss_of_its_own_is_refused(tmp_path):
    teacher, student = span_models()
    with pytest.raises(ValueError, match="the student, a Halved, computes a loss of its own"):
        span_trainer(tmp_path, teacher, Halved(student.config))


def test_weights_of_classes_are_refused(tmp_path):
    teacher, student = span_models()
    with pytest.raises(ValueError, match="class_weights='balanced' is for classes, and a BertForQuestionAnswering"):
        span_trainer(tmp_path, teacher, student, class_weights="balanced")


def test_a_teacher_with_tokens_of_its_own_is_refused(tmp_path):
    teacher, student = span_models()
    data = windows().map(lambda row: {"teacher_input_ids": row["input_ids"]})
    with pytest.raises(
        ValueError, match="teacher_input_ids: for question answering, both models need the same tokens"
    ):
        span_trainer(tmp_path, teacher, student, data)


def test_adapters_learn_spans(tmp_path):
    peft = pytest.importorskip("peft")
    teacher, _ = span_models()
    student = peft.get_peft_model(
        student_from_layers(teacher, [0, 3]), peft.LoraConfig(task_type="QUESTION_ANS", target_modules=["query"])
    )
    trainer = span_trainer(tmp_path, teacher, student, max_steps=2)
    assert isinstance(trainer, DistillationTrainer)
    trainer.train()
    losses = logged(trainer.state.log_history, "kd_loss")
    assert len(losses) == 2
    assert all(value > 0 for value in losses)


def test_a_compiled_student_that_fsdp2_keeps_predicts_starts_and_ends(tmp_path):
    trainer = span_trainer(tmp_path, *span_models(), cache_teacher=False)
    plain = trainer.predict(windows(BATCH))
    trainer.model = torch.compile(trainer.model)
    with torch.compiler.set_stance("force_eager"):
        compiled = trainer.predict(windows(BATCH))
    assert [values.shape for values in compiled.predictions] == [values.shape for values in plain.predictions]
    assert compiled.metrics["test_loss"] == pytest.approx(plain.metrics["test_loss"], rel=1e-6)
