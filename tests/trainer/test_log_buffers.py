"""What is noted of steps and evaluations comes out averaged, and only once."""

from types import SimpleNamespace

import pytest
import torch

from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.trainer.log_buffers import EvaluationRecord, StepRecord

NAMES = ["task_loss", "kd_loss"]
WEIGHTS = torch.tensor(0.25), torch.tensor(0.75)


def step_record(names=NAMES):
    """A record of a rule that measures nothing."""
    return StepRecord(names, SimpleNamespace(state=None, names=[]), with_noise=False, device=torch.device("cpu"))


def take(record, average=lambda losses: losses):
    return record.take(WEIGHTS, average)


def test_losses_are_summed_over_micro_batches_and_averaged_over_steps():
    record = step_record()
    for losses, ends_step in (([1.0, 2.0], False), ([3.0, 4.0], True), ([8.0, 2.0], True)):
        record.add(torch.tensor(losses), ends_step)
    assert take(record) == pytest.approx({"task_loss": 6.0, "kd_loss": 4.0, "lambda": 3.0, "kd_weight": 0.75})
    record.add(torch.tensor([5.0, 7.0]), ends_step=True)
    logs = take(record)
    assert (logs["task_loss"], logs["kd_loss"]) == (5.0, 7.0)


def test_losses_are_averaged_over_ranks():
    record = step_record()
    record.add(torch.tensor([2.0, 4.0]), ends_step=True)
    logs = take(record, average=lambda losses: losses / 2)
    assert (logs["task_loss"], logs["kd_loss"]) == (1.0, 2.0)


def test_the_last_gradients_are_logged_but_for_what_is_not_finite():
    record = step_record()
    record.add(torch.tensor([1.0, float("inf")]), ends_step=True)
    record.gram = Gram(torch.tensor(9.0), torch.tensor(4.0), torch.tensor(-3.0))
    logs = take(record)
    assert logs["kd_loss"] == float("inf"), "the log hides no loss"
    assert (logs["grad_norm_task"], logs["grad_norm_kd"], logs["grad_cosine"]) == (3.0, 2.0, -0.5)


def everything(rows):
    return rows


def test_an_evaluation_averages_losses_over_examples_and_counts_agreement():
    record = EvaluationRecord(NAMES)
    agree, disagree = torch.tensor([[2.0, 1.0]] * 3), torch.tensor([[1.0, 2.0]])
    record.add(agree, agree, torch.zeros(3), torch.tensor([1.0, 2.0]), torch.full((2,), 3), everything)
    record.add(agree[:1], disagree, torch.zeros(1), torch.tensor([5.0, 6.0]), torch.ones(2), everything)
    assert record.metrics() == pytest.approx({"task_loss": 2.0, "kd_loss": 3.0, "teacher_agreement": 0.75})


def test_losses_weigh_as_many_items_as_they_were_divided_by():
    record = EvaluationRecord(NAMES)
    logits = torch.eye(3).expand(2, 3, 3)
    for labels, losses in (
        (torch.tensor([[0, -100, -100], [-100, -100, -100]]), [1.0, 2.0]),
        (torch.tensor([[0, 1, 2], [0, 1, 2]]), [8.0, 16.0]),
    ):
        record.add(logits, logits, labels, torch.tensor(losses), labels.ne(-100).sum().expand(2), everything)
    metrics = record.metrics()
    assert metrics == pytest.approx({"task_loss": 49 / 7, "kd_loss": 98 / 7, "teacher_agreement": 1.0})


def test_rows_that_only_pad_the_last_batch_do_not_count():
    record = EvaluationRecord(NAMES)
    record.add(
        torch.eye(2),
        torch.eye(2).flip(0),
        torch.zeros(2),
        torch.tensor([1.0, 1.0]),
        torch.full((2,), 2),
        lambda rows: rows[:0],
    )
    record.add(torch.eye(2), torch.eye(2), torch.zeros(2), torch.tensor([1.0, 1.0]), torch.full((2,), 2), everything)
    assert record.metrics()["teacher_agreement"] == 1.0


def test_agreement_on_tokens_is_over_those_with_a_label():
    record = EvaluationRecord(NAMES)
    student = torch.eye(3).expand(2, 3, 3)
    teacher = student.clone()
    teacher[0] = teacher[0].roll(1, dims=-1)  # another class at each token of the first example
    labels = torch.tensor([[0, -100, -100], [0, 1, 2]])
    record.add(student, teacher, labels, torch.tensor([1.0, 1.0]), torch.full((2,), 4), everything)
    assert record.metrics()["teacher_agreement"] == pytest.approx(3 / 4)


def test_agreement_of_a_regression_is_the_correlation():
    record = EvaluationRecord(NAMES)
    student = torch.tensor([[0.0], [1.0], [3.0]])
    record.add(student, -2 * student, torch.zeros(3), torch.tensor([1.0, 1.0]), torch.full((2,), 3), everything)
    assert record.metrics()["teacher_agreement"] == pytest.approx(-1.0)


def test_nothing_evaluated_has_no_metrics():
    assert EvaluationRecord(NAMES).metrics() == {}


def test_each_part_of_the_kd_loss_is_logged_with_it():
    names = [*NAMES, "kd_loss/soft_targets", "kd_loss/pkd"]
    losses = torch.tensor([1.0, 5.0, 2.0, 3.0])
    steps, evaluation = step_record(names), EvaluationRecord(names)
    steps.add(losses, ends_step=True)
    evaluation.add(torch.eye(2), torch.eye(2), torch.zeros(2), losses, torch.full((2,), 2), everything)
    for logged in (take(steps), evaluation.metrics()):
        assert [logged[name] for name in names] == losses.tolist()
