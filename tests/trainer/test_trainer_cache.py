"""Training with cached outputs of the teacher equals training with outputs computed at each step."""

import copy

import pytest
import torch
from datasets import Dataset
from helpers import reference
from helpers.small_runs import BATCH, NO_DROPOUT, STEPS, config, examples, flat, logged, make_trainer, models, train
from helpers.tiny import SIZES, VOCABULARY, tiny_bert, tiny_tokenizer
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    default_data_collator,
)

from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.trainer.trainer import DistillationTrainer


def cached_config(folder, **settings):
    return config(folder, teacher_cache_dir=str(folder / "cache"), **settings)


def online_config(folder, **settings):
    return config(folder, cache_teacher=False, **settings)


def count_calls(trainer):
    """A list that grows with each call of the teacher: whether it came from within the loop of training."""
    calls = []
    trainer.teacher.register_forward_hook(lambda *_: calls.append(trainer.is_in_train))
    return calls


def assert_same_training(trainer, other):
    """λ, both losses and the weights at the end."""
    for name in ("lambda", "task_loss", "kd_loss"):
        values, expected = (logged(run.state.log_history, name) for run in (trainer, other))
        assert len(expected) == trainer.state.max_steps
        assert len(set(expected)) > 1
        assert values == pytest.approx(expected, rel=1e-5)
    assert (flat(trainer.model) - flat(other.model)).norm() < 1e-6 * flat(other.model).norm()


# --- the same training


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_train_epochs": 2},
        {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2},
        {"lambda_rule": "evidence"},
        {"lambda_interval": 2},
    ],
    ids=["plain", "epochs", "accumulation", "votes", "unmeasured steps"],
)
def test_cached_training_equals_online_training(tmp_path, settings):
    settings = {"train_sampling_strategy": "random", **settings}
    online = train(online_config(tmp_path, **settings), *models(), examples())
    cached = train(cached_config(tmp_path, **settings), *models(), examples())
    assert "teacher_logits" in cached.train_dataset.column_names
    assert_same_training(cached, online)


def test_cached_regression_equals_online_regression(tmp_path):
    data, settings = examples(num_labels=1), {"learning_rate": 0.003}
    online = train(online_config(tmp_path, **settings), *models(num_labels=1), data)
    assert_same_training(train(cached_config(tmp_path, **settings), *models(num_labels=1), data), online)


def test_dropout_is_the_same_whether_the_cache_is_written_read_or_off(tmp_path):
    def run(args):
        return train(args, *models(hidden_dropout_prob=0.3), examples())

    online = run(online_config(tmp_path))
    for _ in ("written", "read"):
        assert_same_training(run(cached_config(tmp_path)), online)


def test_a_teacher_with_a_tokenizer_of_its_own_is_cached(tmp_path):
    ids = torch.randint(5, 50, (STEPS * BATCH, 7), generator=torch.Generator().manual_seed(2)).tolist()
    data = (
        examples()
        .add_column("teacher_input_ids", ids)
        .add_column("teacher_attention_mask", [[1] * 6 + [0]] * len(ids))
    )

    def run(args):
        _, student = models()
        teacher = tiny_bert(layers=1, vocab_size=50, hidden_dropout_prob=0.0)
        teacher.classifier.weight.data *= 20
        trainer = make_trainer(args, teacher, student, data)
        calls = count_calls(trainer)
        trainer.train()
        return trainer, calls

    torch.manual_seed(3)
    online, _ = run(online_config(tmp_path))
    torch.manual_seed(3)
    cached, calls = run(cached_config(tmp_path))
    assert_same_training(cached, online)
    assert calls == [False] * STEPS


def test_logits_cached_for_another_tokenizer_are_used_without_the_teacher(tmp_path):
    columns = {"input_ids": [7, 8, 9], "attention_mask": [1, 1, 1], "token_type_ids": [0, 0, 0]}
    data = examples()
    for name, values in columns.items():
        data = data.add_column(f"teacher_{name}", [values] * len(data))
    collator = DistillationCollator(tiny_tokenizer(), tiny_tokenizer())
    runs = []
    for teacher_is_given in (True, False):
        teacher, student = models()
        given = teacher if teacher_is_given else None
        runs.append(train(cached_config(tmp_path), given, student, data, data_collator=collator))
        data = runs[0].train_dataset
    assert_same_training(*runs)


# --- when the teacher is asked


def test_the_teacher_is_asked_before_training_and_never_again(tmp_path):
    args = cached_config(tmp_path, num_train_epochs=2, eval_strategy="epoch")
    trainer = make_trainer(args, *models(), examples(), eval_dataset=examples(12))
    calls = count_calls(trainer)
    trainer.train()
    assert calls == [False] * (STEPS + 2)
    assert len(logged(trainer.state.log_history, "eval_kd_loss")) == 2
    trainer.evaluate()
    assert len(calls) == STEPS + 2


@pytest.mark.parametrize("changed", [{"seed": 7}, {"temperature": 4.0}, {"lambda_rule": "norm_ratio"}], ids=str)
def test_a_later_run_reads_what_an_earlier_one_kept(tmp_path, changed):
    earlier = make_trainer(cached_config(tmp_path), *models(), examples())
    trainer = make_trainer(cached_config(tmp_path, **changed), *models(), examples())
    first, calls = [], []
    for found, run in ((first, earlier), (calls, trainer)):  # a hook that reads other values would be another teacher
        run.teacher.register_forward_hook(lambda *_, found=found: found.append(True))
    earlier.train()
    trainer.train()
    assert (len(first), calls) == (STEPS, [])
    assert_same_training(trainer, train(online_config(tmp_path, **changed), *models(), examples()))


def test_outputs_in_another_precision_are_computed(tmp_path):
    kept = []
    for precision in ("fp32", "bf16"):
        assert make_trainer(cached_config(tmp_path, precision=precision), *models(), examples()).cache_teacher()
        kept.append(len(list((tmp_path / "cache").rglob("*.*"))))
    assert kept[1] == 2 * kept[0] > 0


def test_another_dataset_can_still_be_predicted_and_evaluated(tmp_path):
    trainer = train(cached_config(tmp_path), *models(), examples())
    online = train(online_config(tmp_path), *models(), examples())
    others = examples(3 * BATCH).select(range(BATCH, 3 * BATCH)).shuffle(seed=0)
    calls = count_calls(trainer)
    output, expected = trainer.predict(others), online.predict(others)
    assert len(calls) == 2
    assert output.predictions == pytest.approx(expected.predictions, abs=1e-5)
    for name in ("kd_loss", "teacher_agreement", "loss"):
        assert output.metrics[f"test_{name}"] == pytest.approx(expected.metrics[f"test_{name}"], rel=1e-5)
    assert trainer.evaluate(others)["eval_kd_loss"] == pytest.approx(expected.metrics["test_kd_loss"], rel=1e-5)


def test_several_evaluation_datasets_are_cached_each(tmp_path):
    several = {"seen": examples(12), "new": examples(60).select(range(40, 60))}
    settings = {"eval_strategy": "epoch", "per_device_eval_batch_size": 5}
    online = train(online_config(tmp_path, **settings), *models(), examples(), eval_dataset=several)
    trainer = make_trainer(cached_config(tmp_path, **settings), *models(), examples(), eval_dataset=several)
    assert trainer.cache_teacher()
    calls = count_calls(trainer)
    trainer.train()
    assert calls == []
    for name in ("eval_seen_kd_loss", "eval_new_kd_loss", "eval_new_teacher_agreement"):
        assert len(logged(trainer.state.log_history, name)) == 1
        assert logged(trainer.state.log_history, name) == pytest.approx(
            logged(online.state.log_history, name), rel=1e-5
        )
    assert "teacher_logits" not in several["new"].column_names


def test_a_dataset_that_cannot_be_cached_leaves_the_others_cached(tmp_path, caplog):
    streamed = examples(12).to_iterable_dataset()
    trainer = make_trainer(cached_config(tmp_path), *models(), examples(), eval_dataset=streamed)
    assert not trainer.cache_teacher()
    assert "IterableDataset is not a datasets.Dataset" in caplog.text
    assert "teacher_logits" in trainer.train_dataset.column_names
    calls = count_calls(trainer)
    trainer.train()
    assert calls == []
    trainer.evaluate()
    assert len(calls) == 2


# --- without a teacher


def test_logits_in_a_column_need_no_teacher(tmp_path):
    teacher, student = models()
    online = train(online_config(tmp_path), teacher, copy.deepcopy(student), examples(), eval_dataset=examples(12))
    with torch.no_grad():
        logits = teacher(torch.tensor(examples()["input_ids"][:])).logits.tolist()
    data = examples().add_column("teacher_logits", logits)
    trainer = train(cached_config(tmp_path), None, student, data, eval_dataset=data.select(range(12)))
    assert_same_training(trainer, online)
    assert trainer.evaluate()["eval_kd_loss"] == pytest.approx(online.evaluate()["eval_kd_loss"], rel=1e-5)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match=r"no column teacher_logits, and teacher is None"):
        trainer.evaluate(examples(12))


# --- training works for what cannot be cached, too


class Augment:
    """Hides a token of each example, another one each time."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, rows):
        batch = default_data_collator(rows)
        hidden = torch.randint(batch["input_ids"].shape[1], (len(rows), 1), generator=self.generator)
        return {**batch, "attention_mask": batch["attention_mask"].scatter(1, hidden, 0)}


def assert_trains_online(trainer, caplog, reason):
    calls = count_calls(trainer)
    trainer.train()
    assert calls == [True] * STEPS
    (warning,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("cache_teacher:")]
    assert reason in warning
    assert "teacher_logits" not in trainer.train_dataset.column_names


def test_random_augmentation_trains_online_with_a_warning(tmp_path, caplog):
    teacher, student = models()
    trainer = DistillationTrainer(
        student, cached_config(tmp_path), teacher=teacher, train_dataset=examples(), data_collator=Augment()
    )
    assert_trains_online(trainer, caplog, "they are augmented at random")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_trains_online_with_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    args = config(tmp_path / "run", teacher_cache_dir=str(tmp_path / "file" / "cache"))
    trainer = make_trainer(args, *models(), examples())
    assert_trains_online(trainer, caplog, f"cannot be saved in teacher_cache_dir='{tmp_path}/file/cache'")
    assert_same_training(trainer, train(online_config(tmp_path), *models(), examples()))


def test_without_cache_teacher_nothing_is_kept(tmp_path):
    trainer = make_trainer(cached_config(tmp_path, cache_teacher=False), *models(), examples())
    calls = count_calls(trainer)
    trainer.train()
    assert calls == [True] * STEPS
    assert not (tmp_path / "cache").exists()


# --- columns that a model does not take


def distilbert():
    torch.manual_seed(4)
    size = {"vocab_size": 95, "dim": 32, "n_heads": 2, "hidden_dim": 64, "n_layers": 1, "num_labels": 3}
    return DistilBertForSequenceClassification(
        DistilBertConfig(dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0, **size)
    )


def test_unused_columns_are_removed_but_for_the_teachers(tmp_path):
    teacher, _ = models()
    data = examples().add_column("text", ["a good film"] * len(examples()))
    data = data.add_column("token_type_ids", [[0] * 5 + [index % 2] * 5 for index in range(len(data))])
    seen = []
    teacher.register_forward_pre_hook(lambda _, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    args = cached_config(tmp_path, remove_unused_columns=True)
    before = args.to_dict()
    cached = train(args, teacher, distilbert(), data)
    assert args.to_dict() == before
    assert args.remove_unused_columns is True
    online = train(online_config(tmp_path), teacher, distilbert(), data)
    assert_same_training(cached, online)
    assert seen == [{"input_ids", "attention_mask", "token_type_ids"}] * (2 * STEPS)
    without = train(online_config(tmp_path), teacher, distilbert(), data.remove_columns("token_type_ids"))
    assert not torch.equal(flat(without.model), flat(online.model)), "the column must tell the teacher something"


# --- outputs of tokens


def token_models():
    """A confident token classifier, and a student of two of its layers with a head of its own."""
    torch.manual_seed(0)
    size = {**SIZES, **NO_DROPOUT, "num_labels": 3}
    teacher = BertForTokenClassification(BertConfig(**size, num_hidden_layers=4))
    teacher.classifier.weight.data *= 20
    student = student_from_layers(teacher, [0, 3])
    torch.nn.init.normal_(student.classifier.weight, std=0.5)
    return teacher, student


def labelled_tokens(count=STEPS * BATCH):
    """Random sentences of 2 to 12 tokens, of which the first, the last and every third have no label."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length in torch.randint(2, 13, (count,), generator=generator).tolist():
        labels = torch.randint(0, 3, (length,), generator=generator)
        labels[::3] = labels[-1] = -100
        ids = torch.randint(5, len(VOCABULARY), (length,), generator=generator)
        rows.append({"input_ids": ids.tolist(), "attention_mask": [1] * length, "labels": labels.tolist()})
    return Dataset.from_list(rows)


def token_trainer(args, teacher, student, data, **kwargs):
    return DistillationTrainer(
        student,
        args,
        teacher=teacher,
        train_dataset=data,
        data_collator=DataCollatorForTokenClassification(tiny_tokenizer()),
        **kwargs,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_train_epochs": 2},
        {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2},
        {"train_sampling_strategy": "group_by_length", "num_train_epochs": 2},
        {"lambda_rule": "evidence"},
    ],
    ids=["plain", "epochs", "accumulation", "length-grouped", "votes"],
)
def test_cached_tokens_train_as_those_that_the_teacher_is_asked_of(tmp_path, settings):
    settings = {"train_sampling_strategy": "random", "eval_strategy": "epoch", **settings}
    settings["per_device_eval_batch_size"] = 5
    evaluated = labelled_tokens(12)
    trainers = []
    for args in (online_config(tmp_path, **settings), cached_config(tmp_path, **settings)):
        trainer = token_trainer(args, *token_models(), labelled_tokens(), eval_dataset=evaluated)
        calls = count_calls(trainer)
        trainer.train()
        trainers.append(trainer)
    online, cached = trainers
    assert True not in calls
    assert [len(logits) for logits in cached.train_dataset["teacher_logits"]] == [
        len(ids) for ids in labelled_tokens()["input_ids"]
    ]
    assert_same_training(cached, online)
    for name in ("eval_task_loss", "eval_kd_loss", "eval_teacher_agreement"):
        values = logged(cached.state.log_history, name)
        assert values == pytest.approx(logged(online.state.log_history, name), rel=1e-5)


def test_the_losses_of_a_batch_of_tokens_are_means_over_its_labels(tmp_path):
    teacher, student = token_models()
    student, twin = copy.deepcopy(student), student
    data = labelled_tokens(BATCH)
    trainer = token_trainer(cached_config(tmp_path, max_steps=1), teacher, student, data)
    trainer.train()
    task_loss = kd_loss = items = 0.0
    for row in data:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            theirs, own = (model.eval()(ids).logits[0][labels >= 0] for model in (teacher, twin))
        softened = [logits.div(reference.TEMPERATURE).log_softmax(-1) for logits in (theirs, own)]
        kd_loss += reference.TEMPERATURE**2 * (softened[0].exp() * (softened[0] - softened[1])).sum().item()
        task_loss -= own.log_softmax(-1).gather(1, labels[labels >= 0, None]).sum().item()
        items += int((labels >= 0).sum())
    assert 0 < items < sum(map(len, data["input_ids"]))
    assert logged(trainer.state.log_history, "task_loss") == pytest.approx([task_loss / items], rel=1e-5)
    assert logged(trainer.state.log_history, "kd_loss") == pytest.approx([kd_loss / items], rel=1e-5)


def test_logits_of_tokens_in_a_column_need_no_teacher(tmp_path):
    teacher, student = token_models()
    data = labelled_tokens()
    online = token_trainer(online_config(tmp_path), teacher, copy.deepcopy(student), data)
    online.train()
    with torch.no_grad():
        logits = [teacher(torch.tensor([ids])).logits[0].tolist() for ids in data["input_ids"]]
    given = token_trainer(cached_config(tmp_path), None, student, data.add_column("teacher_logits", logits))
    given.train()
    assert_same_training(given, online)


def test_logits_of_tokens_for_other_labels_are_refused(tmp_path):
    data = labelled_tokens(2)
    data = data.add_column("teacher_logits", [[[0.5, 1.0]] * len(ids) for ids in data["input_ids"]])
    with pytest.raises(ValueError, match=r"teacher_logits has 2 values per token, but the student has 3 output\(s\)"):
        token_trainer(cached_config(tmp_path), *token_models(), data)
