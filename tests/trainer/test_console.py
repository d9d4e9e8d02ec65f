"""Log entries as lines of the console."""

import pytest
import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from hf_kd_lambda.trainer.console import ShortPrinter, ShortProgress, console_line, use_short_lines

STEP = {"loss": 0.6931, "grad_norm": 1.0, "learning_rate": 5e-5, "epoch": 0.25, "task_loss": 0.7, "kd_loss": 0.51}
STEP |= {"lambda": 1.25, "kd_weight": 0.55, "grad_cosine": 0.4, "grad_norm_task": 2.0, "lambda_free": 1.0}
EVALUATION = {"eval_loss": 0.5, "eval_f1_macro": 0.75, "eval_accuracy": 0.8, "eval_score": 0.775, "eval_runtime": 1.0}
EVALUATION |= {"eval_samples_per_second": 3.0, "eval_steps_per_second": 1.0, "epoch": 1.0, "eval_task_loss": 0.6}


def test_a_step_has_seven_values():
    assert console_line(STEP, 5, 20) == (
        "step 5/20  epoch 0.25  loss 0.693  task_loss 0.7  kd_loss 0.51  lambda 1.25  grad_cosine 0.4"
    )


def test_an_evaluation_begins_with_its_score():
    assert console_line(EVALUATION, 20, 60) == (
        "evaluation:  epoch 1.00  score 0.775  accuracy 0.8  f1_macro 0.75  task_loss 0.6"
    )


@pytest.mark.parametrize("number", [3, 30])
def test_no_evaluation_has_more_than_five_metrics(number):
    many = EVALUATION | {f"eval_metric_{index}": 0.1 for index in range(number)}
    assert console_line(many, 1, 2).count("  ") == 6  # after "evaluation:" the epoch, then the metrics


def test_the_end_has_rates():
    logs = {"train_runtime": 2.0, "train_samples_per_second": 1234.5, "train_steps_per_second": 38.6, "epoch": 3.0}
    assert console_line(logs, 60, 60) == "trained in 2.0 s: 1.23e+03 examples/s, 38.6 steps/s"


def test_a_step_with_the_tokens_so_far_is_a_step():
    tokens = {"num_input_tokens_seen": 640, "train_runtime": 2.0, "train_tokens_per_second": 320.0}
    assert console_line(STEP | tokens, 5, 20) == console_line(STEP, 5, 20)


@pytest.mark.parametrize(("is_terminal", "bar"), [(True, ShortProgress), (False, ShortPrinter)])
def test_a_file_gets_lines_without_a_bar(tmp_path, monkeypatch, is_terminal, bar):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    trainer = Trainer(torch.nn.Linear(1, 1), TrainingArguments(str(tmp_path), report_to="none", disable_tqdm=False))
    use_short_lines(trainer)
    shown = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert [kind for kind in shown if issubclass(kind, ProgressCallback | PrinterCallback)] == [bar]
