"""Text classification: padding that models do not read, and tokens that are cut."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers.tiny import save_checkpoint, tiny_bert, tiny_tokenizer
from helpers.tiny_decoders import decoder
from transformers.trainer_utils import PredictionOutput

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.tasks import TASKS

TASK = TASKS["text-classification"]
TEXTS = ["the film is good", "bad", "this is a very very dull film", "a a a"]


def data_of(texts=TEXTS, names=("0", "1", "2")):
    split = Dataset.from_dict({"text": texts, "label": [0] * len(texts)})
    return TaskData(DatasetDict({"train": split, "validation": split}), list(names), None)


def encoded(tokenizer, max_length=32):
    return TASK.encode(data_of(), DataArguments(dataset="unused", max_length=max_length), tokenizer, None)["train"]


def test_a_model_may_return_more_than_the_logits_of_its_labels():
    sets, predicted = np.array([[1, 0], [0, 1]]), np.array([[2.0, -1.0], [0.5, 3.0]], np.float32)
    plain = TASK.compared(PredictionOutput(predicted, sets, {}), None)
    assert torch.equal(TASK.compared(PredictionOutput((predicted, np.zeros((2, 5))), sets, {}), None), plain)
    assert plain.shape == (4, 2)


def logits(model, batch):
    with torch.no_grad():
        return model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("pad", [None, 3])
def test_a_loaded_decoder_gives_a_padded_batch_the_logits_of_each_text_alone(tmp_path, model_type, pad):
    checkpoint = save_checkpoint(decoder(model_type, pad_token_id=pad), tmp_path)
    model, tokenizer = TASK.load_model(checkpoint, data_of()), TASK.load_processor(checkpoint)
    together = logits(model.eval(), tokenizer(TEXTS, padding=True, return_tensors="pt"))
    alone = torch.cat([logits(model, tokenizer([text], return_tensors="pt")) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    TASK.check_inputs("teacher", model, tokenizer, encoded(tokenizer))


@pytest.mark.parametrize(
    ("model_type", "pad", "side", "message"),
    [
        ("llama", 3, "right", r"teacher: a LlamaForSequenceClassification .*\(by .*pad_token_id=0 in .*, now 3"),
        ("llama", None, "right", "teacher: .*batch"),
        ("gpt2", 0, "left", "padding_side='right' in its tokenizer_config.json, now 'left'"),
    ],
)
def test_a_model_that_reads_the_padding_is_refused(model_type, pad, side, message):
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    with pytest.raises(ValueError, match=message):
        TASK.check_inputs("teacher", decoder(model_type, pad_token_id=pad), tokenizer, encoded(tokenizer))


def test_an_encoder_and_masked_classes_pass():
    tokenizer, model = tiny_tokenizer(), tiny_bert(layers=1).train()
    TASK.check_inputs("student", model, tokenizer, encoded(tokenizer))
    assert model.training
    model.classifier.bias.data[1] = float("-inf")
    TASK.check_inputs("student", model, tokenizer, encoded(tokenizer))


def test_truncated_texts_are_counted(caplog):
    encoded(tiny_tokenizer(), max_length=5)
    assert "train: 4 examples (0 4, 1 0, 2 0), 2 truncated to 5 tokens" in caplog.text
    caplog.clear()
    encoded(tiny_tokenizer(), max_length=32)
    assert "truncated" not in caplog.text
