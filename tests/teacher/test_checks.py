"""Columns whose names begin with `teacher_`: inputs of the teacher, or the user's own."""

import copy
import re

import pytest
import torch
from datasets import Dataset
from helpers.small_runs import config, examples, flat, make_trainer, models, train
from helpers.tiny import tiny_bert, tiny_tokenizer
from transformers import (
    BertForTokenClassification,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    default_data_collator,
)

from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.data.columns import EXAMPLE_ROW
from hf_kd_lambda.teacher.checks import check_collator, check_columns, check_logit_lengths
from hf_kd_lambda.trainer.trainer import DistillationTrainer

OWN = {"teacher_name": "large", "teacher_score": 0.5, "teacher_id": 3, "teacher_labels": 1}


def with_columns(data, **values):
    for name, value in values.items():
        data = data.add_column(name, [value] * len(data))
    return data


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", OWN)
def test_columns_that_are_no_inputs_change_nothing(tmp_path, caplog, name, cached):
    given = {"cache_teacher": cached, "teacher_cache_dir": str(tmp_path / "cache")}
    plain = train(config(tmp_path / "plain", **given), *models(), examples())
    data = with_columns(examples(), **{name: OWN[name]})
    other = train(config(tmp_path / "other", **given), *models(), data)
    assert torch.equal(flat(plain.model), flat(other.model))
    assert f"columns {name} are no inputs of the teacher and are not used" in caplog.text


def test_texts_do_not_reach_a_collator_that_would_fail_on_them(tmp_path):
    data = with_columns(examples(8), teacher_name="large")
    collate = DataCollatorWithPadding(tiny_tokenizer())
    train(config(tmp_path, cache_teacher=False), *models(), data, data_collator=collate)


def test_inputs_that_the_teacher_does_not_take_are_left_out(tmp_path):
    sizes = DistilBertConfig(vocab_size=95, dim=16, n_heads=2, n_layers=1, num_labels=3, dropout=0.0)
    sizes.seq_classif_dropout = sizes.attention_dropout = 0.0
    torch.manual_seed(0)
    teacher = DistilBertForSequenceClassification(sizes)
    data = examples()
    own = data.add_column("teacher_input_ids", data["input_ids"][:])
    own = own.add_column("teacher_attention_mask", data["attention_mask"][:])
    types = own.add_column("teacher_token_type_ids", [[0] * 10] * len(data))
    runs = [
        train(config(tmp_path / f"{i}", cache_teacher=False), copy.deepcopy(teacher), models()[1], rows)
        for i, rows in enumerate([data, own, types])
    ]
    assert torch.equal(flat(runs[0].model), flat(runs[1].model))
    assert torch.equal(flat(runs[0].model), flat(runs[2].model))


def test_a_column_of_that_name_does_not_hide_another_vocabulary():
    teacher, student = tiny_bert(num_labels=3, vocab_size=120), tiny_bert(num_labels=3)
    with pytest.raises(ValueError, match="the teacher's vocabulary has 120 tokens"):
        check_columns(["input_ids", "labels", "teacher_name"], teacher, student)
    check_columns(["input_ids", "labels", "teacher_name", "teacher_input_ids"], teacher, student)


def test_the_larger_of_two_vocabularies_can_be_cut_by_the_call_that_is_named(tmp_path):
    for sizes, larger in (({"teacher": 120, "student": 95}, "teacher"), ({"teacher": 95, "student": 120}, "student")):
        models = {name: tiny_bert(layers=1, vocab_size=size) for name, size in sizes.items()}
        with pytest.raises(ValueError, match=rf"If only the padding .* call {larger}.resize_token_embeddings\(95\)"):
            check_columns(["input_ids"], **models)
        models[larger].resize_token_embeddings(95)
        check_columns(["input_ids"], **models)


@pytest.mark.parametrize("left", ["teacher_inputs_digest", EXAMPLE_ROW])
def test_what_is_left_of_removed_outputs_does_not_hide_another_vocabulary(left):
    with pytest.raises(ValueError, match="the teacher's vocabulary has 120 tokens"):
        check_columns(["input_ids", "labels", left], tiny_bert(num_labels=3, vocab_size=120), tiny_bert(num_labels=3))
    with pytest.raises(ValueError, match="teacher=None, but the dataset has no column teacher_logits"):
        check_columns(["input_ids", "labels", left], None, tiny_bert(num_labels=3))


def test_classifiers_of_tokens_cannot_read_other_tokens_than_their_teacher():
    sizes = tiny_bert(num_labels=3).config
    with pytest.raises(ValueError, match="teacher_input_ids: for token classification, both models need the same tok"):
        check_columns(["input_ids", "labels", "teacher_input_ids"], *(BertForTokenClassification(sizes) for _ in "ab"))


def test_own_inputs_without_the_main_one_are_refused(tmp_path):
    data = with_columns(examples(8), teacher_attention_mask=[1] * 10)
    with pytest.raises(ValueError, match=r"columns teacher_attention_mask are .* but teacher_input_ids is missing"):
        make_trainer(config(tmp_path), *models(), data)


@pytest.mark.parametrize("split", ["train_dataset", "eval_dataset"])
def test_a_collator_that_drops_the_teachers_own_inputs_is_refused(tmp_path, split):
    teacher, student = tiny_bert(num_labels=3, vocab_size=120, layers=1), tiny_bert(num_labels=3, layers=1)
    args = {"teacher": teacher, split: with_columns(examples(8), teacher_input_ids=[7, 8])}
    with pytest.raises(ValueError, match=r"data_collator drops the columns teacher_input_ids, .*DistillationCollator"):
        DistillationTrainer(student, config(tmp_path), data_collator=DistillationCollator(tiny_tokenizer()), **args)
    both = DistillationCollator(tiny_tokenizer(), tiny_tokenizer())
    DistillationTrainer(student, config(tmp_path), data_collator=both, **args)


def by_first_token(rows):
    return default_data_collator(sorted(rows, key=lambda row: row["input_ids"][0]))


def first_half(rows):
    return default_data_collator(rows[: -(-len(rows) // 2)])


@pytest.mark.parametrize("collate", [by_first_token, first_half])
def test_a_collator_whose_rows_do_not_match_given_logits_is_refused(tmp_path, collate):
    data = with_columns(examples(8), teacher_logits=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"data_collator sorts, drops or merges rows, .* the column teacher_logits"):
        make_trainer(config(tmp_path), None, models()[1], data, data_collator=collate)


def test_a_collator_that_augments_at_random_may_have_given_logits():
    def augment(rows):
        return {"pixel_values": torch.rand(len(rows), 2)}

    check_collator(with_columns(examples(8), teacher_logits=[1.0, 2.0, 3.0]), augment, None)


ROW = [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW, None], "of example 2 .* are not 3 values"),
        ([ROW, ROW[:2], None], "of example 1 .* are not 3 values"),
        ([[ROW, ROW], [ROW, [1.0] * 4]], "of example 1 .* are not 3 values"),
        ([[ROW, ROW], None, [ROW]], "of example 1 .* are not 3 values"),
    ],
    ids=["missing", "shorter", "longer, of a token", "missing, of tokens"],
)
@pytest.mark.parametrize("before", [0, 1500])
def test_rows_of_logits_that_are_unlike_the_first_are_refused(rows, before, message):
    data = Dataset.from_dict({"teacher_logits": [rows[0]] * before + rows})
    message = re.sub(r"\d", lambda index: str(int(index.group()) + before), message, count=1)
    with pytest.raises(ValueError, match=f"teacher_logits {message}"):
        check_logit_lengths(data)
    check_logit_lengths(data.select(range(before + 1)))


def test_hidden_or_single_logits_are_refused_before_training(tmp_path):
    shown = ["input_ids", "attention_mask", "labels"]
    data = with_columns(examples(8), teacher_logits=ROW)
    hidden = data.with_format("torch", columns=shown)
    transformed = data.with_transform(lambda batch: {name: batch[name] for name in shown})
    for rows in (hidden, transformed):
        with pytest.raises(ValueError, match=r"teacher_logits .* not in its examples, because set_format or with_tra"):
            make_trainer(config(tmp_path), *models(), rows)
    with pytest.raises(ValueError, match="teacher_logits has 0 values per example, but the student has 1 output"):
        make_trainer(config(tmp_path), *models(1), with_columns(examples(8, num_labels=1), teacher_logits=0.5))
