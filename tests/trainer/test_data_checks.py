"""Datasets and labels that cannot be learned, and the messages that say so."""

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from helpers.tiny import tiny_bert, tiny_tokenizer
from transformers import DataCollatorWithPadding

from hf_kd_lambda import DistillationConfig, DistillationTrainer
from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.trainer.data_checks import check_given_labels, has_labels_of_batches


def labels(*values):
    return Dataset.from_dict({"labels": list(values)})


@pytest.mark.parametrize(
    ("dataset", "outputs", "message"),
    [
        (labels(0, 1, 3), 3, "column 'labels', example 2 .*: label 3 is not a class from 0 to 2, or -100"),
        (labels(0, -1), 3, "example 1 .*: label -1 is not a class"),
        (labels(0.0, 0.5), 3, "example 1 .*: label 0.5 is not a class"),
        (labels([0, -100], [2, 5]), 3, "example 1 .*: label 5 is not a class"),
        (labels("good", "bad"), 2, "column 'labels' holds texts, such as 'good': .*student.config.label2id"),
        (labels(0.0, float("nan"), 1.0), 2, "column 'labels' holds classes as numbers of type double: fill in -100"),
        (labels([0.0, 1.0]), 2, "column 'labels' holds classes as numbers of type double"),
        (labels(True, False), 2, r"type bool: .* cast it, as dataset.cast_column\('labels', Value\('int64'\)\)"),
        (labels(0.5, float("inf")), 1, "example 1 .*: label inf is not a finite number"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(dataset, outputs, message):
    with pytest.raises(ValueError, match=message):
        check_given_labels([None, dataset], outputs, is_token_level=True)


NAN = float("nan")


@pytest.mark.parametrize(
    ("dataset", "problem_type", "message"),
    [
        (labels([0, 1], [1, 2]), MULTI_LABEL, r"example 1 .*: \[1.0, 2.0\] are not 1, 0 or missing"),
        (labels(None, [1.0, 0.5]), MULTI_LABEL, r"example 1 .*: \[1.0, 0.5\] are not 1, 0 or missing"),
        (labels([0, 1], [1], [1, 0, 0]), MULTI_LABEL, "example 1 .*: 1 labels of an example, the student has 2"),
        (labels([0, 1], []), MULTI_LABEL, "example 1 .*: 0 labels of an example"),
        (
            labels(None, [0.5, 0.5], None, [0.5, 0.4]),
            None,
            r"example 3 .*: \[0.5, 0.4\] are no distribution.* set problem_type of .* to multi_label_classification",
        ),
        (labels([0.5, 0.5], [1.5, -0.5]), None, "example 1 .*: give shares of the classes that sum to 1"),
        (labels(None, [NAN, 1.0]), None, r"example 1 .*: \[nan, 1.0\] are no distribution"),
        (labels([0.5, None]), None, r"example 0 .*: \[0.5, nan\] are no distribution"),
        (labels([0.2, 0.3, 0.5]), None, "example 0 .*: 3 labels of an example, the student has 2"),
    ],
)
def test_lists_of_labels_that_cannot_be_learned_are_refused(dataset, problem_type, message):
    with pytest.raises(ValueError, match=f"column 'labels', {message}"):
        check_given_labels([dataset], 2, problem_type=problem_type)


def test_a_list_with_the_number_of_a_regression_is_refused():
    with pytest.raises(ValueError, match=r"column 'labels' holds lists, .* give each example a number, not a list"):
        check_given_labels([labels([3.5], [2.0])], 1)


@pytest.mark.parametrize(
    ("dataset", "problem_type"),
    [
        (labels([1, 0], None, [-100, 1], [-101, -101]), MULTI_LABEL),
        (labels([1.0, NAN], [NAN, NAN], [None, 0.0]), MULTI_LABEL),
        (labels([0.25, 0.75], None, [NAN, NAN], [0.3333, 0.6666]), None),
    ],
)
def test_lists_of_labels_pass(dataset, problem_type):
    check_given_labels([dataset], 2, problem_type=problem_type)


@pytest.mark.parametrize(
    ("dataset", "outputs"),
    [(labels(0, 2, -100, None), 3), (labels([0, -100], [2]), 3), (labels(0.5, float("nan")), 1)],
)
def test_classes_and_missing_labels_pass(dataset, outputs):
    check_given_labels([dataset], outputs, is_token_level=True)


def test_a_collator_that_sorts_its_rows_keeps_their_labels():
    def collate(rows):
        return {"labels": torch.tensor(sorted((row["labels"] for row in rows), reverse=True))}

    assert has_labels_of_batches(labels(0, 2, 1), "labels", collate)


@pytest.mark.parametrize("more", [0, 1])
def test_labels_of_tokens_are_those_of_their_batches_whatever_pads_them(more):
    def collate(rows):
        padded = [[*(row["labels"] or []), *[-100] * 4][:4] for row in rows]
        return {"labels": torch.tensor([[label + more * (label >= 0) for label in row] for row in padded])}

    assert has_labels_of_batches(labels([0, 1, -100], None, [2], [-101, 1]), "labels", collate) is (more == 0)


@pytest.mark.parametrize("of_tokens", [False, True])
def test_classes_in_another_order_are_refused(of_tokens):
    numbers = [[0, 1], [1]] if of_tokens else [0, 1]
    classes = ClassLabel(names=["neg", "pos"])
    features = Features({"labels": List(classes) if of_tokens else classes})
    dataset = Dataset.from_dict({"labels": numbers}, features=features)
    for names in (["NEG", "Pos"], ["LABEL_0", "LABEL_1"], []):
        check_given_labels([dataset], 2, of_tokens, names=names)
    message = "column 'labels' counts its classes in the order neg, pos, and the student in the order POS, NEG"
    with pytest.raises(ValueError, match=message):
        check_given_labels([dataset], 2, of_tokens, names=["POS", "NEG"])


def test_the_named_fix_gives_the_labels_the_numbers_of_the_student(tmp_path):
    student = tiny_bert(num_labels=2, id2label={0: "pos", 1: "neg"})
    features = Features({"input_ids": List(Value("int64")), "labels": ClassLabel(names=["neg", "pos"])})
    dataset = Dataset.from_dict({"input_ids": [[2, 5, 3], [2, 6, 3]], "labels": [0, 1]}, features=features)
    given = {"teacher": tiny_bert(num_labels=2), "processing_class": tiny_tokenizer()}
    args = DistillationConfig(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match=r"student.config.id2label.items\(\)}, 'labels'\)"):
        DistillationTrainer(student, args, train_dataset=dataset, **given)
    aligned = dataset.align_labels_with_mapping(
        {name: index for index, name in student.config.id2label.items()}, "labels"
    )
    assert aligned["labels"] == [1, 0]
    DistillationTrainer(student, args, train_dataset=aligned, **given)


def test_several_and_soft_labels_of_one_example_pass():
    check_given_labels([labels([0.5, 0.5], [1.0, 0.0])], 2)


def test_labels_in_another_column_are_refused_or_warned_of(tmp_path, caplog):
    data = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 8, "target": [0, 1] * 4})
    args = DistillationConfig(str(tmp_path), report_to="none", use_cpu=True)
    models = {"teacher": tiny_bert(num_labels=3), "train_dataset": data}
    DistillationTrainer(tiny_bert(num_labels=3), args, **models)
    assert (
        "train_dataset gives no labels (input_ids, target), so that the student learns from the teacher" in caplog.text
    )
    args = DistillationConfig(str(tmp_path), label_names=["target"], report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match=r"label_names=\['target'\]: .* dataset.rename_column\('target', 'labels'\)"):
        DistillationTrainer(tiny_bert(num_labels=3), args, **models)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_dataset": DatasetDict(train=labels(0), test=labels(1))}, "is a DatasetDict of train, test: give one"),
        (
            {"eval_dataset": {"a": labels(0), "b": labels(1)}},
            "metric_for_best_model='task_loss': eval_dataset has a, b: name the one that decides, as a_task_loss",
        ),
    ],
)
def test_datasets_that_cannot_be_used_are_refused(tmp_path, given, message):
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    args = DistillationConfig(str(tmp_path), report_to="none", use_cpu=True, **best)
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(tiny_bert(num_labels=3), args, teacher=tiny_bert(num_labels=3), **given)


@pytest.mark.parametrize(
    "needs",
    [
        {"load_best_model_at_end": True, "save_strategy": "epoch"},
        {"save_strategy": "best"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {},
    ],
)
def test_a_metric_of_no_evaluation_is_refused_although_it_begins_like_one(tmp_path, needs):
    best = {"metric_for_best_model": "accuracy", "eval_strategy": "epoch", **needs}
    args = DistillationConfig(str(tmp_path), use_cpu=True, **best)
    data = {"eval_dataset": {"a": labels(0), "b": labels(1)}}
    with pytest.raises(ValueError, match="name the one that decides, as a_accuracy"):
        DistillationTrainer(tiny_bert(num_labels=3), args, teacher=tiny_bert(num_labels=3), **data)


def test_a_collator_may_drop_rows(tmp_path):
    def collate(rows):
        kept = [row for row in rows if len(row["input_ids"]) > 3] or rows[:1]
        return DataCollatorWithPadding(tiny_tokenizer())(kept)

    ids = [[2, *[6] * length, 3] for length in range(1, 9)]
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": [0] * 8})
    args = DistillationConfig(str(tmp_path), max_steps=2, report_to="none", use_cpu=True, save_strategy="no")
    trainer = DistillationTrainer(
        tiny_bert(num_labels=3), args, teacher=tiny_bert(num_labels=3), train_dataset=data, data_collator=collate
    )
    trainer.train()
    assert trainer.state.global_step == 2


UNKNOWN = [[None] * 4, [-100] * 4]


@pytest.mark.parametrize("unknown", UNKNOWN, ids=["None", "-100"])
@pytest.mark.parametrize("column", ["labels", "label"])
def test_the_task_loss_does_not_choose_the_best_student_where_no_label_is_known(tmp_path, column, unknown):
    rows = {"input_ids": [[1, 2, 3]] * 4}
    train = Dataset.from_dict({**rows, column: [0, 1, 2, 0]})
    evaluated = Dataset.from_dict({**rows, column: unknown}, features=train.features)
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch", "report_to": "none"}
    models = {"teacher": tiny_bert(num_labels=3), "train_dataset": train, "eval_dataset": evaluated}
    args = DistillationConfig(str(tmp_path), use_cpu=True, **best)
    with pytest.raises(ValueError, match="metric_for_best_model='task_loss': eval_dataset has no label: give it"):
        DistillationTrainer(tiny_bert(num_labels=3), args, **models)
    args = DistillationConfig(str(tmp_path), use_cpu=True, metric_for_best_model="kd_loss", **best)
    trainer = DistillationTrainer(tiny_bert(num_labels=3), args, **models)
    trainer.train()
    assert trainer.state.best_metric == min(
        log["eval_kd_loss"] for log in trainer.state.log_history if "eval_loss" in log
    )
    one_known = Dataset.from_dict({**rows, column: [*unknown[:3], 1]}, features=train.features)
    args = DistillationConfig(str(tmp_path), use_cpu=True, **best)
    DistillationTrainer(tiny_bert(num_labels=3), args, **{**models, "eval_dataset": one_known})


def test_the_advice_chooses_the_best_student_without_a_column_of_labels(tmp_path):
    train = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "labels": [0, 1, 2, 0]})
    models = {"teacher": tiny_bert(), "train_dataset": train, "eval_dataset": train.remove_columns("labels")}
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch", "report_to": "none"}
    best |= {"metric_for_best_model": "kd_loss", "num_train_epochs": 1, "use_cpu": True}
    trainer = DistillationTrainer(tiny_bert(), DistillationConfig(str(tmp_path), **best), **models)
    trainer.train()
    assert trainer.state.best_metric > 0
    args = DistillationConfig(str(tmp_path), lambda_rule="adaptive", **best)
    with pytest.raises(ValueError, match=r"='kd_loss': eval_dataset has no label: give it labels\."):
        DistillationTrainer(tiny_bert(), args, compute_loss_func=lambda *args, **kwargs: 0, **models)


def test_an_evaluation_without_a_batch_is_refused(tmp_path):
    data = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "labels": [0, 1, 2, 0]})
    models = {"teacher": tiny_bert(num_labels=3), "eval_dataset": data}
    dropping = {"dataloader_drop_last": True, "per_device_eval_batch_size": 5, "use_cpu": True, "report_to": "none"}
    args = DistillationConfig(str(tmp_path), eval_strategy="epoch", **dropping)
    with pytest.raises(ValueError, match="per_device_eval_batch_size=5: the 4 validation examples fill no batch"):
        DistillationTrainer(tiny_bert(num_labels=3), args, **models)
    DistillationTrainer(tiny_bert(num_labels=3), DistillationConfig(str(tmp_path), **dropping), **models)


def test_texts_of_a_teacher_that_is_not_there_do_not_reach_the_collator(tmp_path):
    rows = {"input_ids": [[2, 6, 3], [2, 6, 6, 3]], "labels": [0, 1], "teacher_response": ["good", "bad"]}
    data = Dataset.from_dict({**rows, "teacher_logits": [[0.0, 1.0, 2.0]] * 2})
    args = DistillationConfig(str(tmp_path), use_cpu=True, report_to="none")
    trainer = DistillationTrainer(tiny_bert(num_labels=3), args, train_dataset=data, processing_class=tiny_tokenizer())
    assert trainer.train().metrics["train_loss"] > 0


def test_tokens_of_several_lengths_need_a_collator_that_pads(tmp_path):
    data = Dataset.from_dict({"input_ids": [[2, 5, 3], [2, 6, 7, 3]], "labels": [0, 1]})
    models = {"model": tiny_bert(num_labels=2, layers=1), "teacher": tiny_bert(num_labels=2, layers=1)}
    args = DistillationConfig(str(tmp_path), report_to="none")
    with pytest.raises(
        ValueError, match="input_ids of several lengths, such as 3 and 4, and nothing pads them: give pro"
    ):
        DistillationTrainer(**models, args=args, train_dataset=data)
    DistillationTrainer(**models, args=args, train_dataset=data, processing_class=tiny_tokenizer())
