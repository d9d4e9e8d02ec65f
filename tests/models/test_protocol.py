"""What may be a teacher or a student, and what is refused before training starts."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny import tiny_bert
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    LayoutLMConfig,
    LayoutLMForQuestionAnswering,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
    T5ForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.modeling_outputs import BaseModelOutput, QuestionAnsweringModelOutput, SequenceClassifierOutput
from transformers.utils import ModelOutput

from hf_kd_lambda.models.protocol import (
    answers_questions,
    as_model_output,
    check_model,
    model_config,
    model_device,
)

SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = BertConfig(vocab_size=20, num_labels=3, **SIZE)
LLAMA = LlamaConfig(vocab_size=20, **SIZE)
VIT = ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZE)
T5 = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1)
BART = BartConfig(
    vocab_size=20,
    d_model=8,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=8,
    decoder_ffn_dim=8,
)
WHO = pytest.mark.parametrize("who", ["teacher", "student"])


class Plain(nn.Module):
    """A classifier without a config."""

    def __init__(self):
        super().__init__()
        self.embeddings, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.embeddings(input_ids).mean(1))


class Headed(BertModel):
    """A bare encoder that somebody gave a head."""

    def forward(self, *args, **kwargs):
        return SequenceClassifierOutput(logits=super().forward(*args, **kwargs).last_hidden_state[:, 0])


class Renamed(T5ForConditionalGeneration):
    """Nothing of its own."""


@WHO
@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny_bert(),
        lambda: BertForTokenClassification(BERT),
        lambda: BertForMaskedLM(BERT),
        lambda: BertForQuestionAnswering(BERT),
        lambda: LlamaForCausalLM(LLAMA),
        lambda: ViTForImageClassification(VIT),
        lambda: BartForSequenceClassification(BART),
        lambda: T5ForSequenceClassification(T5),
        lambda: Headed(BERT),
        Plain,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
    ],
)
def test_models_that_give_logits_are_taken_as_they_are(make, who):
    model = make()
    assert check_model(model, who) is model


@WHO
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BertModel(BERT), "a BertModel, is an encoder without a head.*AutoModelForSequenceClassification"),
        (lambda: LlamaModel(LLAMA), "a LlamaModel, is an encoder without a head"),
        (lambda: ViTModel(VIT), "a ViTModel, is an encoder without a head"),
        (
            lambda: LayoutLMForQuestionAnswering(LayoutLMConfig(vocab_size=20, **SIZE)),
            "a LayoutLMForQuestionAnswering, answers questions about tables or documents",
        ),
        (lambda: T5ForConditionalGeneration(T5), "a T5ForConditionalGeneration, is an encoder-decoder"),
        (lambda: BartForConditionalGeneration(BART), "a BartForConditionalGeneration, is an encoder-decoder"),
        (lambda: Renamed(T5), "a Renamed, is an encoder-decoder that generates text"),
        (nn.Module, "a Module, has no forward"),
    ],
)
def test_models_without_logits_are_refused_by_name(make, message, who):
    with pytest.raises(ValueError, match=f"the {who}, {message}"):
        check_model(make(), who)


@WHO
@pytest.mark.parametrize(
    "given", ["bert-base-uncased", None, BERT, BertModel, "x" * 500], ids=lambda given: type(given).__name__
)
def test_what_is_no_model_is_refused(given, who):
    with pytest.raises(ValueError, match=rf"^{who}=.*, not a torch.nn.Module: load the model first") as error:
        check_model(given, who)
    assert len(str(error.value)) < 300


def test_a_student_without_trainable_weights_is_refused_and_a_teacher_is_not():
    frozen = tiny_bert().requires_grad_(False)
    assert check_model(frozen, "teacher") is frozen
    with pytest.raises(ValueError, match="the student, a BertForSequenceClassification, has no trainable parameter"):
        check_model(frozen, "student")
    table = nn.Flatten()
    assert check_model(table, "teacher") is table


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_student_is_refused_and_a_teacher_is_not():
    quantised = torch.ao.quantization.quantize_dynamic(tiny_bert(), {nn.Linear}, dtype=torch.qint8)
    assert check_model(quantised, "teacher") is quantised
    with pytest.raises(ValueError, match="has quantised layers, which cannot be trained"):
        check_model(quantised, "student")


@WHO
def test_a_compiled_model_is_unwrapped_with_a_warning(who, caplog):
    model = tiny_bert()
    assert check_model(torch.compile(model, backend="eager"), who) is model
    assert f"the {who} is compiled" in caplog.text
    assert ("torch_compile=True" in caplog.text) == (who == "student")


def test_a_compiled_model_is_still_checked():
    with pytest.raises(ValueError, match="encoder without a head"):
        check_model(torch.compile(BertModel(BERT), backend="eager"), "teacher")


def test_adapters_are_looked_through():
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(BertModel(BERT), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match="is an encoder without a head"):
        check_model(adapted, "student")


# --- outputs

LOGITS = torch.randn(4, 3)
Named = namedtuple("Named", ["loss", "logits"])


@pytest.mark.parametrize(
    "outputs",
    [
        SequenceClassifierOutput(logits=LOGITS),
        {"loss": torch.tensor(1.0), "logits": LOGITS},
        LOGITS,
        (torch.tensor(1.0), LOGITS, torch.zeros(4, 5, 6)),
        (LOGITS,),
        [LOGITS],
        Named(torch.zeros(2, 2), LOGITS),
        SimpleNamespace(logits=LOGITS),
    ],
    ids=lambda outputs: type(outputs).__name__,
)
def test_logits_are_found_in_whatever_holds_them(outputs):
    found = as_model_output(outputs, Plain(), "teacher")
    assert isinstance(found, ModelOutput)
    assert found.logits is LOGITS
    assert found["logits"] is LOGITS


def test_logits_of_starts_and_ends_are_stacked():
    start, end = torch.randn(2, 5), torch.randn(2, 5)
    found = as_model_output(QuestionAnsweringModelOutput(start_logits=start, end_logits=end), Plain(), "student")
    assert torch.equal(found.logits, torch.stack([start, end], dim=-1))
    assert torch.equal(found["start_logits"], start)


def test_who_answers_questions():
    assert answers_questions(BertForQuestionAnswering(BertConfig(vocab_size=20, **SIZE)))
    assert not answers_questions(BertForTokenClassification(BERT))
    assert not answers_questions(Plain())


def test_other_outputs_stay():
    outputs = SequenceClassifierOutput(logits=LOGITS, hidden_states=(LOGITS,))
    assert as_model_output(outputs, Plain(), "student") is outputs
    found = as_model_output({"logits": LOGITS, "hidden_states": (LOGITS,)}, Plain(), "student")
    assert found["hidden_states"] == (LOGITS,)


@pytest.mark.parametrize(
    ("outputs", "described"),
    [
        (BaseModelOutput(last_hidden_state=LOGITS), "a BaseModelOutput of last_hidden_state"),
        ({"scores": LOGITS}, "a dict of scores"),
        ({}, "a dict of nothing"),
        ((torch.tensor(1.0),), "a tuple"),
        (LOGITS[0], r"a tensor of torch.float32 and shape \[3\]"),
        (torch.zeros(4, 3, dtype=torch.long), r"a tensor of torch.int64 and shape \[4, 3\]"),
        (None, "a NoneType"),
    ],
)
def test_outputs_without_logits_are_refused_by_name(outputs, described):
    with pytest.raises(ValueError, match=f"the teacher, a Plain, returns no logits .* but {described}: return them"):
        as_model_output(outputs, Plain(), "teacher")


# --- facts


def test_a_plain_module_may_have_a_config_of_its_own():
    model = Plain()
    model.config = {"width": 4}
    assert model_config(model) is None
    assert model_config(tiny_bert()).num_labels >= 2


def test_the_device_of_a_model_without_parameters():
    assert model_device(nn.Flatten()) == torch.device("cpu")
    assert model_device(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert model_device(nn.BatchNorm1d(2, affine=False, device="meta")) == torch.device("meta")


class NeedsLabels(Plain):
    """A classifier whose `forward` requires labels."""

    def forward(self, input_ids, labels):
        return super().forward(input_ids)


@WHO
def test_a_forward_that_requires_labels_is_refused(who):
    with pytest.raises(ValueError, match=f"the {who}, a NeedsLabels, has a forward that requires labels.*labels=None"):
        check_model(NeedsLabels(), who)
