"""Several teachers as one."""

import copy
import inspect

import pytest
import torch
from helpers.tiny import SIZES, tiny_batch, tiny_bert
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering, DistilBertConfig, DistilBertForSequenceClassification

from hf_kd_lambda.data.columns import forward_parameters
from hf_kd_lambda.models.ensemble import Ensemble, members_of, teacher_digest
from hf_kd_lambda.models.protocol import answers_questions, as_model_output
from hf_kd_lambda.utils.fingerprint import NoDigestError


class Constant(nn.Module):
    """A plain module that gives the same logits to all examples."""

    def __init__(self, *logits):
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, input_ids):
        return self.logits.expand(len(input_ids), -1)


IDS = torch.zeros(2, 3, dtype=torch.long)


@pytest.mark.parametrize(("weights", "expected"), [(None, [2.0, 3.0]), ([1, 3], [3.0, 4.5]), ([2.0, 6.0], [3.0, 4.5])])
def test_logits_are_the_weighted_mean(weights, expected):
    ensemble = Ensemble([Constant(0.0, 0.0), Constant(4.0, 6.0)], weights)
    torch.testing.assert_close(ensemble(input_ids=IDS)["logits"], torch.tensor([expected] * 2))


def test_at_each_temperature_the_soft_targets_are_the_geometric_mean():
    logits = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
    mean = Ensemble([Constant(*row) for row in logits.tolist()])(input_ids=IDS)["logits"][0]
    for temperature in (1, 4):
        product = (logits / temperature).softmax(-1).prod(0).sqrt()
        torch.testing.assert_close((mean / temperature).softmax(-1), product / product.sum())


def test_each_member_reads_the_inputs_that_it_names():
    torch.manual_seed(0)
    small = DistilBertConfig(
        vocab_size=SIZES["vocab_size"], dim=32, n_heads=2, hidden_dim=64, n_layers=1, num_labels=3
    )
    bert, other = tiny_bert(layers=1).eval(), DistilBertForSequenceClassification(small).eval()
    batch = {**tiny_batch(), "token_type_ids": torch.ones(4, 8, dtype=torch.long)}
    plain = {name: value for name, value in batch.items() if name != "token_type_ids"}
    ensemble = Ensemble([bert, other])
    assert {"input_ids", "attention_mask", "token_type_ids"} <= forward_parameters(ensemble)
    assert "labels" not in forward_parameters(ensemble)
    expected = (bert(**batch).logits + other(**plain).logits) / 2
    torch.testing.assert_close(ensemble(**batch)["logits"], expected)
    again = copy.deepcopy(ensemble)
    bert.classifier.bias.data += 1
    torch.testing.assert_close(again(**batch)["logits"], expected)


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
def test_members_with_adapters_read_the_inputs_of_their_models(task_type):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    settings = peft.LoraConfig(task_type=task_type, target_modules=["query"], init_lora_weights=False)
    member = peft.get_peft_model(tiny_bert(layers=1), settings).eval()
    batch = {**tiny_batch(), "token_type_ids": torch.ones(4, 8, dtype=torch.long)}
    ensemble = Ensemble([member])
    assert {"input_ids", "attention_mask", "token_type_ids"} <= forward_parameters(ensemble)
    torch.testing.assert_close(ensemble(**batch)["logits"], member(**batch).logits)


def test_losses_are_averaged_where_all_members_have_one():
    members = [tiny_bert(layers=1).eval() for _ in range(2)]
    batch = {**tiny_batch(), "labels": torch.tensor([0, 1, 2, 0])}
    expected = sum(member(**batch).loss for member in members) / 2
    torch.testing.assert_close(Ensemble(members)(**batch)["loss"], expected)


def test_starts_and_ends_of_answers_are_averaged():
    members = [BertForQuestionAnswering(BertConfig(**SIZES, num_hidden_layers=1)).eval() for _ in range(2)]
    ensemble = Ensemble(members)
    assert answers_questions(ensemble)
    found = ensemble(**tiny_batch())
    assert list(found) == ["start_logits", "end_logits"]
    ensemble_of_one = Ensemble(members[:1])
    assert not torch.allclose(found["start_logits"], ensemble_of_one(**tiny_batch())["start_logits"])


def test_logits_of_all_members_are_given_on_request():
    members = [tiny_bert(layers=1).bfloat16().eval() for _ in range(2)]
    questions = [BertForQuestionAnswering(BertConfig(**SIZES, num_hidden_layers=1)).eval() for _ in range(2)]
    batch = tiny_batch()
    for models in (members, questions):
        found = Ensemble(models)(**batch, output_member_logits=True)
        for logits, model in zip(found["member_logits"], models, strict=True):
            assert logits.dtype == torch.float32
            torch.testing.assert_close(logits, as_model_output(model(**batch), model, "teacher").logits.float())


def test_half_precision_members_are_averaged_in_fp32():
    member = tiny_bert(layers=1).bfloat16().eval()
    assert Ensemble([member])(**tiny_batch())["logits"].dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble([]), "there is no member"),
        (lambda: Ensemble([Constant(1.0, 2.0)], [1, 2]), r"weights=\[1.0, 2.0\] must be 1 positive"),
        (lambda: Ensemble([Constant(1.0, 2.0)] * 2, [1, 0]), "must be 2 positive finite numbers"),
        (lambda: Ensemble([nn.Module()]), "the teacher, a Module, has no forward"),
        (lambda: Ensemble([Constant(1.0, 2.0), Constant(1.0, 2.0, 3.0)])(input_ids=IDS), "of different shapes"),
    ],
)
def test_what_is_no_ensemble_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_members_and_weights_decide_the_digest():
    torch.manual_seed(0)
    first, second = tiny_bert(layers=1), tiny_bert(layers=1)
    digests = [
        teacher_digest(teacher)
        for teacher in (first, Ensemble([first, second]), Ensemble([first, second], [1, 2]), Ensemble([second, first]))
    ]
    assert len(set(digests)) == 4
    assert teacher_digest(copy.deepcopy(Ensemble([first, second]))) == digests[1]
    assert members_of(first) == [first]
    assert inspect.signature(first.forward).parameters, "a member keeps its own"


def test_an_ensemble_of_an_own_class_is_not_taken_for_the_mean():
    class Largest(Ensemble):
        def _mean(self, tensors):
            return torch.stack(tensors).amax(0)

    with pytest.raises(NoDigestError, match="a Largest has no Transformers configuration"):
        teacher_digest(Largest([tiny_bert(layers=1)]))
