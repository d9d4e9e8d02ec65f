"""A student whose `forward` computes another loss than the task loss is refused, one with the usual loss is not."""

import math

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers.small_runs import config, examples, make_trainer, models, train
from helpers.tiny import SIZES
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    default_data_collator,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_kd_lambda.trainer.own_loss import check_own_loss


def weighted(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), torch.tensor([1.0, 2.0, 1.0]))


def focal(logits, labels):
    negative = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return ((1 - (-negative).exp()) ** 2 * negative).mean()


def huber(logits, labels):
    return F.huber_loss(logits.squeeze(-1), labels)


def smoothed(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=0.1)


def of_paths(logits, labels):
    """A loss of tokens that also scores which class follows which, as a CRF does."""
    transitions = torch.eye(logits.shape[-1])[labels.clamp(min=0)]
    followed = (transitions[:, 1:] * transitions[:, :-1]).sum()
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten()) - 0.1 * followed


def with_loss(base, loss):
    """A class of models of Transformers with another loss."""

    class Own(base):
        def forward(self, input_ids=None, attention_mask=None, labels=None):
            logits = super().forward(input_ids=input_ids, attention_mask=attention_mask).logits
            return SequenceClassifierOutput(loss=None if labels is None else loss(logits, labels), logits=logits)

    return Own


def bert(loss=None, base=BertForSequenceClassification, num_labels=3):
    torch.manual_seed(0)
    kind = base if loss is None else with_loss(base, loss)
    return kind(BertConfig(**SIZES, num_hidden_layers=1, num_labels=num_labels))


def token_examples():
    labels = [[-100, 0, 1, 2, *[0] * 5, -100]] * 4
    return Dataset.from_dict({**examples(4).remove_columns("labels").to_dict(), "labels": labels})


@pytest.mark.parametrize(
    ("student", "data"),
    [
        (bert(weighted), examples(16)),
        (bert(focal), examples(16)),
        (bert(smoothed), examples(16)),
        (bert(weighted), examples(16).remove_columns("labels").add_column("labels", [0] * 16)),
        (bert(huber, num_labels=1), examples(16, num_labels=1)),
        (bert(weighted, BertForTokenClassification), token_examples()),
        (bert(of_paths, BertForTokenClassification), token_examples()),
    ],
    ids=["class weights", "focal", "smoothed", "labels of one class", "huber", "tokens", "paths"],
)
def test_another_loss_is_refused_with_both_values(tmp_path, student, data):
    teacher = bert(base=type(student).__bases__[0], num_labels=student.config.num_labels)
    message = "the student, a Own, computes a loss of its own, which would be replaced: it is .* where .* is "
    with pytest.raises(ValueError, match=message):
        make_trainer(config(tmp_path), teacher, student, data)


def test_a_loss_that_is_replaced_on_purpose_is_not_compared(tmp_path):
    teacher, _ = models()

    def compute_loss(outputs, labels, num_items_in_batch):
        return weighted(outputs.logits, labels)

    train(config(tmp_path, max_steps=1), teacher, bert(weighted), examples(8), compute_loss_func=compute_loss)
    make_trainer(config(tmp_path, label_smoothing_factor=0.1), teacher, bert(weighted), examples(8))


class Strict(nn.Module):
    """A plain module whose `forward` takes labels and fails on them."""

    def __init__(self):
        super().__init__()
        self.config = BertConfig(vocab_size=95, num_labels=3)
        self.layer = nn.Linear(10, 3)

    def forward(self, input_ids, labels=None):
        if labels is not None:
            raise RuntimeError("these labels are not mine")
        return self.layer(input_ids / 100)


def test_a_loss_that_cannot_be_computed_is_warned_of(tmp_path, caplog):
    make_trainer(config(tmp_path), models()[0], Strict(), examples(8))
    assert "a Strict, computes from labels fails on a batch (these labels are not mine)" in caplog.text


def causal(kind, config_class, **sizes):
    torch.manual_seed(0)
    return kind(config_class(vocab_size=60, **sizes))


def gpt2():
    return causal(GPT2LMHeadModel, GPT2Config, n_embd=16, n_layer=1, n_head=2, n_positions=32)


def mixtral(**router):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return causal(MixtralForCausalLM, MixtralConfig, num_key_value_heads=1, num_local_experts=4, **sizes, **router)


def sentences():
    return (
        examples(4)
        .map(lambda row: {"input_ids": [x % 60 for x in row["input_ids"]]})
        .map(lambda row: {"labels": [-100, *row["input_ids"][1:]]})
    )


def test_the_loss_of_a_router_is_refused_by_the_setting_that_adds_it(tmp_path):
    make_trainer(config(tmp_path), gpt2(), mixtral(), sentences())
    with pytest.raises(ValueError, match=r"a MixtralForCausalLM, adds a loss of its router .* output_router_logits"):
        make_trainer(config(tmp_path), gpt2(), mixtral(output_router_logits=True), sentences())


def distilbert():
    sizes = DistilBertConfig(vocab_size=95, dim=16, n_heads=2, n_layers=1, num_labels=3)
    return DistilBertForSequenceClassification(sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("student", "data"),
    [
        (bert(), examples(8)),
        (bert(num_labels=1), examples(8, num_labels=1)),
        (bert(base=BertForTokenClassification), token_examples()),
        (distilbert(), examples(8)),
    ],
    ids=["bert", "regression", "tokens", "distilbert"],
)
def test_the_losses_of_transformers_are_the_task_loss(student, data, dtype):
    before = {name: value.clone() for name, value in student.state_dict().items()}
    check_own_loss(student.to(dtype).train(), data, default_data_collator, student.config.num_labels)
    assert student.training
    after = student.to(torch.float32).state_dict()
    assert all(torch.allclose(after[name], value, atol=0.01) for name, value in before.items())


def test_examples_without_labels_are_given_some(tmp_path):
    data = examples(8).remove_columns("labels")
    check_own_loss(bert(), data, default_data_collator, 3)
    with pytest.raises(ValueError, match="computes a loss of its own"):
        check_own_loss(bert(weighted), data, default_data_collator, 3)
    missing = examples(8, num_labels=1).remove_columns("labels").add_column("labels", [math.nan] * 8)
    check_own_loss(bert(num_labels=1), missing, default_data_collator, 1)


def weighted_labels(logits, labels):
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor([1.0, 3.0, 1.0]))


def test_several_labels_an_example_and_soft_labels_are_compared_too(tmp_path, caplog):
    plain = examples(8).remove_columns("labels")
    data = plain.add_column("labels", [[1.0, 0.0, 1.0]] * 8)
    student = bert(weighted_labels)
    student.config.problem_type = teacher_problem = "multi_label_classification"
    teacher = bert()
    teacher.config.problem_type = teacher_problem
    with pytest.raises(ValueError, match="computes a loss of its own"):
        make_trainer(config(tmp_path), teacher, student, data)
    usual = bert()
    usual.config.problem_type = teacher_problem
    make_trainer(config(tmp_path), teacher, usual, data)
    soft = plain.add_column("labels", [[0.5, 0.25, 0.25]] * 8)
    make_trainer(config(tmp_path), bert(), bert(), soft)
    with pytest.raises(ValueError, match="computes a loss of its own"):
        make_trainer(config(tmp_path), bert(), bert(weighted), soft)
    assert "fails on a batch" not in caplog.text


def test_a_student_of_nan_is_named_as_such_before_training(tmp_path):
    student = bert()
    student.classifier.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"gives a loss of nan on the first examples: check its weights"):
        make_trainer(config(tmp_path), bert(), student, examples(8))


def test_excluded_classes_are_no_other_loss(caplog):
    student = bert()
    student.classifier.bias.data[2] = -math.inf  # the loss of Transformers is infinite for its label
    check_own_loss(student, examples(8), default_data_collator, 3)
    assert "excludes classes by logits of −∞" in caplog.text
