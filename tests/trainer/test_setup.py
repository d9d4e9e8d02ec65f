"""What is settled before the first step: arguments, and students that are plain modules."""

from contextlib import nullcontext

import pytest
import torch
from datasets import Dataset
from helpers.tiny import tiny_bert, tiny_tokenizer
from transformers import BertConfig, TrainingArguments, default_data_collator

from hf_kd_lambda import DistillationConfig, DistillationTrainer
from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.trainer.setup import check_arguments, own_arguments


def test_plain_arguments_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="args is a TrainingArguments: make it a DistillationConfig"):
        DistillationTrainer(tiny_bert(num_labels=2), TrainingArguments(str(tmp_path)), teacher=tiny_bert(num_labels=2))
    with pytest.raises(ValueError, match=r"args=None: give a DistillationConfig, for example DistillationConfig\("):
        DistillationTrainer(tiny_bert(num_labels=2), teacher=tiny_bert(num_labels=2))
    config = DistillationConfig(str(tmp_path))
    assert check_arguments(config) is config


class FromFrame(torch.utils.data.Dataset):
    """Ends with a KeyError, as one that reads rows of a pandas.DataFrame by their number."""

    def __init__(self, rows):
        self.rows = dict(enumerate(rows))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.mark.parametrize(
    "kind", [list, FromFrame, lambda rows: Dataset.from_list(rows).to_iterable_dataset().map(lambda row: row)]
)
def test_a_teacher_with_its_own_tokenizer_keeps_its_padding_token(tmp_path, kind):
    own = {"teacher_input_ids": [7, 8, 9], "teacher_attention_mask": [1, 1, 1]}
    data = kind([{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": 0, **own}] * 4)
    teacher, student = tiny_bert(num_labels=3, pad_token_id=9), tiny_bert(num_labels=3, pad_token_id=8)
    args = DistillationConfig(str(tmp_path), max_steps=1, report_to="none", use_cpu=True)
    collate = DistillationCollator(tiny_tokenizer(), tiny_tokenizer())
    models = {"model": student, "teacher": teacher, "processing_class": tiny_tokenizer()}
    DistillationTrainer(**models, args=args, train_dataset=data, data_collator=collate)
    assert (teacher.config.pad_token_id, student.config.pad_token_id) == (9, 0)


class Plain(torch.nn.Module):
    """Returns logits, and has no configuration."""

    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Embedding(100, 3)

    def forward(self, input_ids):
        return self.embeddings(input_ids).mean(1)


def test_a_student_without_a_configuration_is_refused(tmp_path):
    message = "the student, a Plain, has no config with num_labels and id2label: make it a PreTrainedModel, or give it"
    with pytest.raises(ValueError, match=message):
        DistillationTrainer(Plain(), DistillationConfig(str(tmp_path)), teacher=tiny_bert(num_labels=3))


def test_a_plain_module_with_a_configuration_is_a_student(tmp_path):
    student = Plain()
    student.config = tiny_bert(num_labels=3).config
    data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5, 6]] * 4, "labels": [0, 1] * 4})
    args = DistillationConfig(str(tmp_path), max_steps=1, report_to="none", save_strategy="no", use_cpu=True)
    trainer = DistillationTrainer(student, args, teacher=tiny_bert(num_labels=3), train_dataset=data)
    before = student.embeddings.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, student.embeddings.weight)


def test_a_collator_may_make_numbers_of_texts(tmp_path):
    def collate(rows):
        return default_data_collator([{**row, "label": float(row["label"] == "good")} for row in rows])

    data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5, 6]] * 4, "label": ["good", "bad"] * 4})
    args = DistillationConfig(str(tmp_path), report_to="none", use_cpu=True)
    models = [tiny_bert(num_labels=1, layers=1) for _ in range(2)]
    trainer = DistillationTrainer(models[0], args, teacher=models[1], train_dataset=data, data_collator=collate)
    assert trainer.lambda_state.trust.unit is None


class WithStates(Plain):
    """Returns hidden states, too."""

    def forward(self, input_ids, output_hidden_states=False):
        states = self.embeddings(input_ids)
        return {"logits": states.mean(1), "hidden_states": (states, states)}


@pytest.mark.parametrize(
    ("losses", "expectation"),
    [
        ({"hidden_mse": 1.0}, nullcontext()),
        (
            {"attention_maps": 1.0},
            pytest.raises(ValueError, match="attention maps need a model of Transformers, and the student is a plain"),
        ),
    ],
)
def test_a_plain_student_learns_hidden_states_and_no_attention_maps(tmp_path, losses, expectation):
    student = WithStates()
    teacher = tiny_bert(num_labels=3)
    student.config = BertConfig(**{**teacher.config.to_dict(), "num_hidden_layers": 1})
    data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5, 6]] * 4, "labels": [0, 1] * 4})
    args = DistillationConfig(str(tmp_path), max_steps=1, kd_losses=losses, report_to="none", use_cpu=True)
    with expectation:
        trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=data)
        trainer.train()
        assert trainer.state.log_history[0]["kd_loss"] > 0


def test_nothing_is_pushed_at_a_save(tmp_path, caplog):
    given = DistillationConfig(str(tmp_path), push_to_hub=True, use_cpu=True)
    args = own_arguments(given)
    assert not args.push_to_hub
    assert given.push_to_hub
    assert "hub_strategy='every_save' would push more than the student at every save" in caplog.text
    caplog.clear()
    own_arguments(DistillationConfig(str(tmp_path), push_to_hub=True, hub_strategy="end", use_cpu=True))
    assert not caplog.text


def test_what_the_trainer_writes_into_settings_of_accelerate_is_its_own(tmp_path):
    given = {"gradient_accumulation_kwargs": {"adjust_scheduler": False}}
    args = DistillationConfig(str(tmp_path), accelerator_config=given, use_cpu=True, report_to="none")
    data = Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [0], "teacher_logits": [[0.0, 1.0, 2.0]]})
    for _ in range(2):
        DistillationTrainer(tiny_bert(num_labels=3), args, train_dataset=data)
    assert args.accelerator_config.gradient_accumulation_kwargs == {"adjust_scheduler": False}
