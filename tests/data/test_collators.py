import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_kd_lambda.data.collators import DistillationCollator, SpanCollator
from hf_kd_lambda.data.label_collators import SpanLabels
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.texts import tokenize

BERT_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]


def make_tokenizer(pad_id=0, **settings):
    """Word-level tokenizer with the vocabulary [PAD] [UNK] [CLS] [SEP] a b c ..., from `pad_id` on."""
    words = ["[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    vocabulary = {word: pad_id + 1 + i for i, word in enumerate(words)} | {"[PAD]": pad_id}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", **settings)


def make_data(pairs=False, labels=(0, 1), names=("no", "yes")):
    columns = {"text": ["a b c d e", "a"], "label": list(labels)} | ({"text_pair": ["f", "g h"]} if pairs else {})
    split = Dataset.from_dict(columns)
    return TaskData(DatasetDict({"train": split, "validation": split}), list(names) if names else None, None)


def test_tokens_are_cut_and_not_padded():
    tokens = tokenize(make_data(), make_tokenizer(), max_length=3)
    assert set(tokens) == {"train", "validation"}
    assert tokens["train"]["input_ids"][:] == [[4, 5, 6], [4]]
    assert tokens["train"]["labels"][:] == [0, 1]
    assert set(tokens["train"].column_names) == {"input_ids", "attention_mask", "labels"}


def test_the_tokenizers_own_limit_holds():
    tokens = tokenize(make_data(), make_tokenizer(model_max_length=2), max_length=3)
    assert tokens["train"]["input_ids"][0] == [4, 5]


def test_the_trainer_finds_the_tokenizer_to_save():
    tokenizer = make_tokenizer()
    assert DistillationCollator(tokenizer, make_tokenizer(pad_id=1)).tokenizer is tokenizer


def test_pairs_are_tokenised_together():
    tokens = tokenize(make_data(pairs=True), make_tokenizer(model_input_names=BERT_INPUTS), max_length=8)
    assert tokens["train"]["input_ids"][1] == [4, 10, 11]
    assert tokens["train"]["token_type_ids"][1] == [0, 1, 1]


def test_a_teacher_with_its_own_vocabulary_gets_its_own_columns():
    student, teacher = make_tokenizer(), make_tokenizer(pad_id=50, model_input_names=BERT_INPUTS)
    tokens = tokenize(make_data(), student, max_length=8, teacher_tokenizer=teacher)["train"]
    teachers = {f"teacher_{name}" for name in BERT_INPUTS}
    assert set(tokens.column_names) == {"input_ids", "attention_mask", "labels"} | teachers
    assert tokens["teacher_input_ids"][1] == [54]

    batch = DistillationCollator(student, teacher)(list(tokens))
    assert batch["input_ids"].tolist() == [[4, 5, 6, 7, 8], [4, 0, 0, 0, 0]]
    assert batch["teacher_input_ids"].tolist() == [[54, 55, 56, 57, 58], [54, 50, 50, 50, 50]]
    assert batch["teacher_attention_mask"].tolist() == [[1] * 5, [1, 0, 0, 0, 0]]
    assert set(batch) == set(tokens.column_names)


@pytest.mark.parametrize(("labels", "dtype"), [((0, 1), torch.int64), ((0.5, 2.0), torch.float32)])
def test_labels_of_a_batch_have_the_dtype_of_their_loss(labels, dtype):
    tokenizer = make_tokenizer()
    tokens = tokenize(make_data(labels=labels), tokenizer, max_length=8)["train"]
    batch = DistillationCollator(tokenizer)(list(tokens))
    assert batch["labels"].dtype == dtype
    assert batch["labels"].tolist() == list(labels)


def test_a_single_text_column_of_tokens_is_enough_to_group_by_length(tmp_path):
    tokens = tokenize(make_data(), make_tokenizer(), max_length=8)["train"]
    args = TrainingArguments(output_dir=str(tmp_path), train_sampling_strategy="group_by_length", use_cpu=True)
    assert args.length_column_name not in tokens.column_names
    assert LengthGroupedSampler(1, tokens, model_input_name="input_ids").lengths == [5, 1]


# --- question answering


def windows():
    first = {"input_ids": [4, 5, 6], "attention_mask": [1, 1, 1], "answer_mask": [1, 0, 1], "char_starts": [-1, -1, 0]}
    second = {"input_ids": [4, 5], "attention_mask": [1, 1], "answer_mask": [1, 1], "char_starts": [-1, 0]}
    return [
        {**first, "start_positions": 2, "end_positions": 2, "context": "a"},
        {**second, "start_positions": None, "end_positions": 1, "context": "b"},
    ]


def test_windows_are_padded_with_what_may_be_no_answer():
    batch = SpanCollator(make_tokenizer())([{**row, "start_positions": 0} for row in windows()])
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[4, 5, 6], [4, 5, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "answer_mask": [[1, 0, 1], [1, 1, 0]],
        "start_positions": [0, 0],
        "end_positions": [2, 1],
    }


def test_spans_become_labels():
    batch = SpanLabels(SpanCollator(make_tokenizer()))(windows())
    assert batch["labels"].tolist() == [[2, 2], [-101, 1]]
    assert batch["answer_mask"].tolist() == [[1, 0, 1], [1, 1, 0]]


def test_without_a_mask_every_token_may_be_an_answer():
    rows = [{name: value for name, value in row.items() if name != "answer_mask"} for row in windows()]
    assert SpanLabels(SpanCollator(make_tokenizer()))(rows)["answer_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
