"""What a collator makes of examples that carry the teacher's logits."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.tiny import tiny_tokenizer
from transformers import DataCollatorWithPadding, default_data_collator

from hf_kd_lambda.teacher.collator import ColumnCollator, padded
from hf_kd_lambda.teacher.row_digest import row_digests


class Given:
    """A collator that remembers which columns it was given."""

    def __call__(self, examples):
        self.columns = set(examples[0])
        return default_data_collator(examples)


ROWS = [{"input_ids": [1, 2], "labels": 0, "teacher_input_ids": [3], "text": "a", "token_type_ids": [0, 0]}] * 2


@pytest.mark.parametrize(
    ("kept", "dropped"), [(None, set()), ({"input_ids"}, {"text", "token_type_ids"}), (set(ROWS[0]), set())]
)
def test_only_columns_that_a_model_takes_reach_the_collator(kept, dropped):
    given = Given()
    batch = ColumnCollator(given, kept)(ROWS)
    assert given.columns == set(ROWS[0]) - dropped
    assert batch["teacher_input_ids"].tolist() == [[3], [3]]
    assert "teacher_logits" not in batch


@pytest.mark.parametrize(("name", "label"), [("label", 2), ("label_ids", [2]), ("labels", 2)])
def test_labels_of_any_name_are_kept(name, label):
    batch = ColumnCollator(default_data_collator, {"input_ids"})([{"input_ids": [1], name: label}])
    assert batch["labels"].tolist() == [label]


@pytest.mark.parametrize(
    "as_stored",
    [list, np.float64, lambda row: torch.tensor(row, dtype=torch.float16)],
    ids=["lists", "numpy", "fp16 tensors"],
)
def test_logits_become_one_fp32_tensor_and_stay_out_of_the_collator(as_stored):
    given, logits = Given(), [[0.5, -1.0], [2.0, 0.25]]
    rows = [{"input_ids": [1], "teacher_logits": as_stored(row)} for row in logits]
    batch = ColumnCollator(given, None)(rows)
    assert given.columns == {"input_ids"}
    assert batch["teacher_logits"].dtype == torch.float32
    assert batch["teacher_logits"].tolist() == logits


def test_rows_in_bf16_have_a_digest_each():
    values = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.5]], dtype=torch.bfloat16)
    first, again, other = row_digests({"pixel_values": values})
    assert first == again != other


@pytest.mark.parametrize("format_type", [None, "torch", "numpy"])
def test_a_dataset_of_any_format_gives_the_same_logits(format_type):
    data = Dataset.from_dict({"input_ids": [[1], [2]], "teacher_logits": [[0.1, 0.2], [0.3, 0.4]]})
    batch = ColumnCollator(default_data_collator, None)(list(data.with_format(format_type)))
    assert torch.equal(batch["teacher_logits"], torch.tensor([[0.1, 0.2], [0.3, 0.4]]))


def test_examples_without_column_names_are_left_to_the_collator():
    pairs = [(torch.tensor([1, 2]), 0), (torch.tensor([3, 4]), 1)]

    def collate(examples):
        return {
            "input_ids": torch.stack([ids for ids, _ in examples]),
            "labels": torch.tensor([y for _, y in examples]),
        }

    batch = ColumnCollator(collate, {"input_ids"})(pairs)
    assert {name: value.tolist() for name, value in batch.items()} == {"input_ids": [[1, 2], [3, 4]], "labels": [0, 1]}


def test_padding_is_left_to_the_collator_whose_tokenizer_stays_in_reach():
    tokenizer = tiny_tokenizer()
    collate = ColumnCollator(DataCollatorWithPadding(tokenizer), None)
    batch = collate([{"input_ids": [5, 6, 7], "teacher_logits": [1.0]}, {"input_ids": [8], "teacher_logits": [2.0]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["teacher_logits"].tolist() == [[1.0], [2.0]]
    assert collate.tokenizer is tokenizer
    assert ColumnCollator(default_data_collator, None).tokenizer is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_tokens_are_padded_as_the_tokens_are(side):
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    logits = torch.randn(3, 2)
    rows = [
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "teacher_logits": logits.tolist()},
        {"input_ids": [8], "attention_mask": [1], "teacher_logits": logits[:1].tolist()},
    ]
    batch = ColumnCollator(DataCollatorWithPadding(tokenizer), None)(rows)
    first = 2 if side == "left" else 0
    assert batch["teacher_logits"].dtype == torch.float32
    assert torch.equal(batch["teacher_logits"][0], logits)
    assert torch.equal(batch["teacher_logits"][1, first], logits[0])
    assert not batch["teacher_logits"][1].roll(-first, 0)[1:].any()


def test_logits_of_tokens_need_no_mask_where_all_examples_are_as_long():
    rows = [{"input_ids": [1, 2], "teacher_logits": [[0.5, 1.0], [2.0, 3.0]]}] * 2
    batch = ColumnCollator(default_data_collator, None)(rows)
    assert batch["teacher_logits"].tolist() == [[[0.5, 1.0], [2.0, 3.0]]] * 2


def test_logits_of_words_instead_of_tokens_are_refused():
    rows = [{"input_ids": [1, 2, 3], "attention_mask": [1, 1, 1], "teacher_logits": [[0.5, 1.0]]}]
    with pytest.raises(ValueError, match="the teacher's outputs of an example have 1 tokens, but the example has 3"):
        ColumnCollator(default_data_collator, None)(rows)


# --- rows of tokens

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])  # padded on the right, and on the left
TOKENS = [4, 2, 1]
VALUES = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
UNPADDED = [row[mask.bool()] for row, mask in zip(VALUES, MASK, strict=True)]


@pytest.mark.parametrize("length", [4, 6])
def test_rows_are_padded_as_their_batch_is_whichever_they_were_kept_from(length):
    mask = torch.zeros(3, length, dtype=torch.long)
    for row, tokens in enumerate(TOKENS):
        mask[row, length - tokens :] = 1
    batch = padded(UNPADDED, mask)
    assert batch.shape == (3, length, 5)
    assert torch.equal(batch[mask.bool()], torch.cat(UNPADDED))
    assert not batch[~mask.bool()].any()
    assert torch.equal(padded(UNPADDED, MASK), VALUES * MASK.unsqueeze(-1))


def test_rows_for_other_tokens_are_refused():
    with pytest.raises(ValueError, match="have 2 tokens, but the example has 1: give one row per token"):
        padded(UNPADDED[:2], torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]))
