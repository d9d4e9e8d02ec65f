"""Inputs that would end in a wrong student: they are handled right, or refused by name."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict
from helpers.small_runs import config, examples, flat, logged, make_trainer, models, train
from torch import nn
from transformers import BertForTokenClassification, default_data_collator

from hf_kd_lambda.jobs.finetune import finetune
from hf_kd_lambda.models.ensemble import Ensemble
from hf_kd_lambda.models.labels import permute_head, set_labels
from hf_kd_lambda.trainer import finite_losses
from hf_kd_lambda.trainer.finite_losses import FiniteLosses, NotFiniteError, check_weights
from hf_kd_lambda.trainer.trainer import DistillationTrainer

VALUES = [float("nan"), float("inf")]


def cached_in(folder, **settings):
    return config(folder / "run", teacher_cache_dir=str(folder / "cache"), **settings)


# --- teachers of other logits


class PlainTeacher(nn.Module):
    """Gives the same logits to all examples, or to all tokens."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, input_ids):
        return torch.zeros(len(input_ids), *self.shape)


@pytest.mark.parametrize(("num_labels", "shape"), [(3, (1,)), (2, (3,)), (1, (3,)), (3, (10, 3))])
def test_a_teacher_of_other_logits_trains_no_student(tmp_path, num_labels, shape):
    student = models(num_labels)[1]
    before = flat(student)
    with pytest.raises(ValueError, match=r"the teacher returns logits of shape .*, the student of shape \[8, \d\]"):
        train(config(tmp_path), PlainTeacher(*shape), student, examples(num_labels=num_labels))
    assert torch.equal(flat(student), before)


def test_a_teacher_of_tokens_trains_no_student_of_sentences(tmp_path):
    teacher = BertForTokenClassification(models()[0].config)
    with pytest.raises(ValueError, match=r"the teacher returns logits of shape \[8, 10, 3\], the student"):
        train(cached_in(tmp_path), teacher, models()[1], examples())


# --- non-finite values


@pytest.mark.parametrize("value", VALUES)
def test_a_column_of_teacher_logits_that_is_not_finite_is_refused_by_example(tmp_path, value):
    data = examples(16)
    logits = [[0.0, 1.0, 2.0]] * 16
    logits[11] = [0.0, value, 2.0]
    with pytest.raises(ValueError, match=rf"teacher_logits of example 11 \(counted from 0\) contain {value}"):
        make_trainer(config(tmp_path), None, models()[1], data.add_column("teacher_logits", logits))


def test_a_teacher_that_answers_nan_is_refused_before_training(tmp_path):
    teacher, student = models()
    before = flat(student)
    teacher.classifier.weight.data[0, 0] = float("nan")
    trainer = make_trainer(cached_in(tmp_path), teacher, student, examples())
    with pytest.raises(ValueError, match=r"teacher_logits of example 0 .* check the teacher"):
        trainer.train()
    assert torch.equal(before, flat(student))


@pytest.mark.parametrize("interval", [1, 100], ids=["measuring", "ordinary"])
def test_training_stops_at_losses_that_stay_nan_and_the_student_is_kept(tmp_path, interval):
    teacher, student = models()
    teacher.classifier.weight.data[0, 0] = float("nan")
    args = config(tmp_path, cache_teacher=False, lambda_interval=interval, num_train_epochs=4)
    trainer = make_trainer(args, teacher, student, examples())
    with pytest.raises(NotFiniteError, match=r"the loss of optimizer step .* is not finite .* lower learning_rate"):
        trainer.train()
    assert flat(trainer.model).isfinite().all()
    assert len(logged(trainer.state.log_history, "kd_loss")) == trainer.state.global_step, "logs hide nothing"


def test_a_diverging_run_stops(tmp_path):
    args = config(tmp_path, lambda_interval=100, num_train_epochs=4)
    args.learning_rate = 1e30  # would be refused
    with pytest.raises(NotFiniteError):
        train(args, *models(), examples())


def test_single_steps_that_are_skipped_anyway_may_pass():
    finite, bad, good = FiniteLosses(), torch.tensor(float("nan")), torch.tensor(1.0)
    for _ in range(3):
        for _ in range(9):
            finite.check(bad, 0, skips=True)
        finite.check(good, 0, skips=True)
    with pytest.raises(NotFiniteError, match="step 8 is not finite"):
        finite.check(bad, 7, skips=False)


@pytest.mark.parametrize("order", [(True, False, False), (False, True, False), (False, False, True)])
def test_a_step_is_bad_if_one_of_its_micro_batches_is(order):
    finite = FiniteLosses()
    for step in range(10):
        for last, is_bad in enumerate(order):
            loss = torch.tensor(float("inf") if is_bad else 1.0)
            if step == 9 and last == 2:
                with pytest.raises(NotFiniteError, match="step 10 is not finite"):
                    finite.check(loss, step, skips=True, ends_step=True)
            else:
                finite.check(loss, step, skips=True, ends_step=last == 2)


class Spoil(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def with_nan_gradients(student):
    """The student, whose outputs stay finite."""
    student.bert.register_forward_hook(lambda module, inputs, outputs: type(outputs)(
        last_hidden_state=outputs[0], pooler_output=Spoil.apply(outputs[1])))  # fmt: skip
    return student


def test_gradients_that_stay_nan_stop_a_run_whose_losses_are_finite(tmp_path):
    teacher, student = models()
    args = config(tmp_path, cache_teacher=False, num_train_epochs=4)
    trainer = make_trainer(args, teacher, with_nan_gradients(student), examples())
    with pytest.raises(NotFiniteError, match="the Gram matrix of optimizer step 10 is not finite"):
        trainer.train()
    assert flat(trainer.model).isfinite().all()


@pytest.mark.parametrize("saving", [{"save_strategy": "no"}, {"save_strategy": "steps", "save_steps": 1}])
def test_a_last_step_that_makes_the_student_nan_is_no_finished_run(tmp_path, saving):
    teacher, student = models()
    fixed = {"lambda_rule": "fixed", "cache_teacher": False, "max_steps": 1, **saving}
    trainer = make_trainer(config(tmp_path, **fixed), teacher, with_nan_gradients(student), examples())
    with pytest.raises(NotFiniteError, match="the weights after optimizer step 1 are not finite"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_weights_of_another_rank_count(monkeypatch):
    def all_reduce(finite, op):
        assert op == torch.distributed.ReduceOp.MIN
        finite.fill_(0)

    ranks = {"is_initialized": lambda: True, "get_world_size": lambda: 2, "ReduceOp": torch.distributed.ReduceOp}
    monkeypatch.setattr(finite_losses, "dist", SimpleNamespace(**ranks, all_reduce=all_reduce))
    with pytest.raises(NotFiniteError, match="the weights after optimizer step 3 are not finite"):
        check_weights(nn.Linear(1, 1), 3)


def test_a_student_that_is_frozen_after_training_can_be_evaluated(tmp_path):
    trainer = train(config(tmp_path, max_steps=1), *models(), examples(), eval_dataset=examples(8))
    expected = trainer.evaluate()["eval_task_loss"]
    trainer.model.requires_grad_(False)
    assert trainer.evaluate()["eval_task_loss"] == expected


@pytest.mark.parametrize("saving", [{}, {"save_strategy": "epoch"}], ids=["end", "checkpoint"])
def test_fine_tuning_that_diverges_saves_nothing(tmp_path, saving):
    data = examples(16)
    args = config(tmp_path, **saving)
    args.learning_rate = 1e30  # would be refused
    with pytest.raises(NotFiniteError, match="the weights after optimizer step 2 are not finite"):
        finetune(models()[0], args, DatasetDict(train=data, validation=data), None, default_data_collator,
                 lambda prediction: {}, {})  # fmt: skip
    assert not list(tmp_path.rglob("*.safetensors"))


# --- a teacher without information


RULES = {"default": {"lambda_rule": "trust"}, "no KD": {"lambda_rule": "fixed", "kd_weight": 0}}


def separable(count=64):
    """Examples whose first token decides the class."""
    data = examples(count)
    return data.remove_columns("labels").add_column("labels", [ids[0] % 3 for ids in data["input_ids"]])


@pytest.mark.parametrize("optim", [pytest.param("sgd", marks=pytest.mark.slow), "adamw_torch"])
def test_the_default_rule_gives_no_weight_to_a_teacher_that_tells_nothing(tmp_path, optim):
    rate, steps = (0.03, 150) if optim == "sgd" else (3e-3, 90)
    settings = {"optim": optim, "learning_rate": rate, "max_steps": steps, "logging_steps": 30, "lambda_interval": 8}
    data, found = separable(), {}
    teacher, student = models()
    nn.init.normal_(student.classifier.weight, std=0.3)
    teacher.classifier.weight.data *= 1e-4  # nearly equal logits for all classes
    nn.init.zeros_(teacher.classifier.bias)
    for name, rule in RULES.items():
        args = config(tmp_path / name, cache_teacher=False, **settings, **rule)
        trainer = train(args, teacher, copy.deepcopy(student), data, eval_dataset=data)
        found[name] = trainer.evaluate()["eval_task_loss"]
        if name == "default":
            assert logged(trainer.state.log_history, "lambda")[-1] < 0.05
    assert found["default"] <= found["no KD"] + 0.05


def test_a_cache_of_a_teacher_that_tells_nothing_is_warned_of_once(tmp_path, caplog):
    teacher, student = models()
    teacher.classifier.weight.data *= 1e-4
    make_trainer(cached_in(tmp_path), teacher, student, examples(), eval_dataset=examples()).cache_teacher()
    assert caplog.text.count("the teacher gives nearly the same logits to all classes") == 1


# --- collators


def longest_first(rows):
    """A collator that sorts its batch, here by the first token."""
    return default_data_collator(sorted(rows, key=lambda row: -row["input_ids"][0]))


def without_the_last(rows):
    return default_data_collator(rows[:-1] if len(rows) > 1 else rows)


def late_windows(rows):
    """A collator that changes only inputs that begin with a certain token, as one that cuts long texts at random."""
    changed = [dict(row) for row in rows]
    for row in changed:
        if row["input_ids"][0] % 7 == 0:
            row["input_ids"] = [*row["input_ids"][:-1], int(torch.randint(5, 20, ()))]
    return default_data_collator(changed)


@pytest.mark.parametrize("collate", [longest_first, without_the_last, late_windows])
def test_a_collator_that_changes_rows_leaves_the_teacher_online(tmp_path, caplog, collate):
    teacher, student = models()
    online = train(
        config(tmp_path / "online", cache_teacher=False), copy.deepcopy(teacher), copy.deepcopy(student), examples()
    )
    trainer = make_trainer(cached_in(tmp_path), teacher, student, examples())
    trainer.data_collator.collate.collate = collate
    assert not trainer.cache_teacher()
    assert "cache_teacher: the teacher runs at each step for these examples, because" in caplog.text
    trainer.train()
    if collate is longest_first:
        first = [entry["kd_loss"] for entry in (online.state.log_history[0], trainer.state.log_history[0])]
        assert first[0] == pytest.approx(first[1], rel=1e-5), "the same examples in another order"


def test_a_collator_that_changes_after_the_cache_was_made_is_refused(tmp_path):
    teacher, student = models()
    trainer = make_trainer(cached_in(tmp_path), teacher, student, examples())
    assert trainer.cache_teacher()
    trainer.data_collator.collate.collate = longest_first
    with pytest.raises(ValueError, match=r"not match the cached .* data_collator .*, or files .* have changed"):
        trainer.train()


def test_numbers_of_a_run_are_json(tmp_path):
    trainer = train(config(tmp_path, lambda_rule="evidence"), *models(), examples())
    json.loads(json.dumps(trainer.state.log_history), parse_constant=lambda name: pytest.fail(name))


# --- whose loss, whose outputs


def test_an_overridden_loss_is_refused_by_name(tmp_path):
    kind = type("OwnTrainer", (DistillationTrainer,), {"compute_loss": lambda self, *args, **kwargs: torch.zeros(())})
    teacher, student = models()
    with pytest.raises(ValueError, match=r"OwnTrainer overrides compute_loss, .* give compute_loss_func"):
        kind(student, config(tmp_path), teacher=teacher, train_dataset=examples())


class Mean(nn.Module):
    """A plain module that answers with the mean of its members' logits."""

    def __init__(self, *members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, input_ids, attention_mask):
        return torch.stack([member(input_ids, attention_mask).logits for member in self.members]).mean(0)


def test_a_plain_module_teaches_as_an_ensemble(tmp_path, caplog):
    teacher, student = models()
    alone = train(config(tmp_path / "alone", cache_teacher=False), teacher, copy.deepcopy(student), examples())
    twice = Mean(copy.deepcopy(teacher), copy.deepcopy(teacher))
    ensemble = train(cached_in(tmp_path), twice, copy.deepcopy(student), examples())
    torch.testing.assert_close(flat(ensemble.model), flat(alone.model), rtol=1e-5, atol=1e-7)
    assert "cache_teacher: the teacher runs at each step" in caplog.text


def test_an_ensemble_teaches_from_one_cache_of_all_members(tmp_path):
    teacher, student = models()
    for model in (teacher, student):
        set_labels(model.config, ["bad", "fair", "good"])
    alone = train(config(tmp_path / "alone", cache_teacher=False), teacher, copy.deepcopy(student), examples())
    swapped = permuted(copy.deepcopy(teacher), [2, 0, 1])
    for name in ("first", "second"):
        ensemble = Ensemble([copy.deepcopy(teacher), copy.deepcopy(swapped)], [3, 1])
        trainer = train(cached_in(tmp_path, run_name=name), ensemble, copy.deepcopy(student), examples())
        torch.testing.assert_close(flat(trainer.model), flat(alone.model), rtol=1e-5, atol=1e-7)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_member_for_other_labels_and_a_loss_of_more_than_logits_are_refused(tmp_path):
    teacher, student = models()
    other = Ensemble([copy.deepcopy(teacher), models(num_labels=2)[0]])
    with pytest.raises(ValueError, match=r"has 2 output\(s\)"):
        make_trainer(config(tmp_path), other, student, examples())
    twice = Ensemble([copy.deepcopy(teacher), copy.deepcopy(teacher)])
    with pytest.raises(
        ValueError, match=r"needs more of the teacher than the logits of an Ensemble: give one teacher"
    ):
        make_trainer(config(tmp_path, kd_losses={"hidden_mse": 1.0}), twice, student, examples())


def permuted(model, permutation):
    """A model whose outputs are in another order, by named labels."""
    permute_head(model, permutation)
    return model
