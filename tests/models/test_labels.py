import pytest
import torch
import transformers
from helpers.named_bert import NAMES, logits, named_bert
from helpers.tiny import SIZES, tiny_bert
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig

from hf_kd_lambda.models.labels import align_labels, label_permutation, names_of_numbers, permute_head, set_labels


def test_permutation_is_none_in_the_same_order(warnings):
    assert label_permutation(named_bert("Negative", "Neutral", "Positive"), NAMES) is None
    assert label_permutation(tiny_bert(num_labels=1, layers=1), None) is None
    assert not warnings


@pytest.mark.parametrize(
    ("own_names", "label_names", "permutation"),
    [
        (["0", "1", "10", "2"], [str(index) for index in (0, 1, 2, 10)], [0, 1, 3, 2]),
        (sorted(map(str, range(11))), [str(index) for index in range(11)], [0, 1, *range(3, 11), 2]),
        (["LABEL_1", "LABEL_0"], ["LABEL_0", "LABEL_1"], [1, 0]),
    ],
)
def test_numbers_in_another_order_are_names_as_others(own_names, label_names, permutation, warnings):
    model = named_bert(*own_names)
    assert label_permutation(model, label_names) == permutation
    align_labels(model, label_names)
    assert list(model.config.id2label.values()) == label_names
    assert not warnings


@pytest.mark.parametrize(
    ("own_names", "label_names", "whose", "fix"),
    [
        (["LABEL_0", "LABEL_1"], ["no", "yes"], "data", "name the classes of 'BertForSequenceClassification' in id2"),
        (["no", "yes"], ["0", "1"], "data", "write names in the data."),
        (["no", "yes"], ["0", "1"], "student", "name the classes of the student in id2label of its config."),
    ],
)
def test_generic_names_are_taken_in_order_with_a_warning(own_names, label_names, whose, fix, warnings):
    model = named_bert(*own_names)
    assert label_permutation(model, label_names, whose=whose) is None
    assert len(warnings) == 1
    assert f"assuming the same order. If it is another, {fix}" in warnings[0]
    align_labels(model, label_names)
    assert model.config.label2id == {"no": 0, "yes": 1}


@pytest.mark.parametrize(
    ("label_names", "of_teachers", "expected"),
    [
        (["0", "1"], [["LABEL_0", "LABEL_1"], ["no", "yes"], ["yes", "no"]], ["no", "yes"]),
        (["LABEL_0", "LABEL_1"], [["no", "yes"]], ["no", "yes"]),
        (["0", "1"], [["1", "0"]], ["0", "1"]),
        (["0", "1"], [["1", "2"]], ["0", "1"]),
        (["LABEL_0", "LABEL_1"], [["LABEL_1", "LABEL_0"]], ["LABEL_0", "LABEL_1"]),
        (["0", "1", "2"], [["no", "yes"], []], ["0", "1", "2"]),
        (["bad", "good"], [["no", "yes"]], ["bad", "good"]),
        (None, [["no", "yes"]], None),
    ],
)
def test_numbers_get_the_names_of_the_first_teacher_that_has_some(label_names, of_teachers, expected, warnings):
    assert names_of_numbers(label_names, of_teachers) == expected
    assert len(warnings) == (expected != label_names)


def test_a_plain_module_with_a_configuration_is_named_by_its_class(warnings):
    model = torch.nn.Linear(4, 3)
    model.config = PreTrainedConfig(num_labels=3)
    align_labels(model, NAMES)
    assert list(model.config.id2label.values()) == NAMES
    assert "Linear" in str(warnings)


@pytest.mark.parametrize(
    ("model", "label_names", "message"),
    [
        (named_bert("no", "maybe", "yes"), NAMES, r"\['no', 'maybe', 'yes'\].*\['negative', .*teacher_finetune: true"),
        (named_bert("no", "no", "yes"), ["no", "yes", "yes"], r"\['no', 'no', 'yes'\]"),
        (named_bert("no", "yes"), NAMES, r"2 output\(s\), \['no', 'yes'\].*\['negative', 'neutral', 'positive'\]"),
        (named_bert("1", "2", "3"), ["0", "1", "2"], r"\['1', '2', '3'\], the data \['0', '1', '2'\]: .* write the"),
        (named_bert("score"), NAMES, r"1 output\(s\)"),
        (named_bert("no", "yes"), None, "needs one, for regression"),
        (
            named_bert("no", problem_type="regression"),
            ["no"],
            "trained for regression, but the data is for single_label_classification. Use a",
        ),
        (named_bert("no", "yes", problem_type="multi_label_classification"), ["no", "yes"], "multi_label"),
    ],
)
def test_other_labels_are_refused(model, label_names, message):
    with pytest.raises(ValueError, match=message):
        label_permutation(model, label_names)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "deberta-v2"])
def test_permute_head_permutes_logits_and_names(model_type):
    sizes = {"dim": 32, "n_heads": 2, "hidden_dim": 64, "n_layers": 1} if model_type == "distilbert" else SIZES
    config = AutoConfig.for_model(model_type, **sizes, id2label=dict(enumerate(NAMES)))
    model = AutoModelForSequenceClassification.from_config(config).eval()
    before = logits(model)
    permute_head(model, [2, 0, 1])
    torch.testing.assert_close(logits(model), before[:, [2, 0, 1]])
    assert list(model.config.id2label.values()) == ["positive", "negative", "neutral"]


def test_weights_in_eight_bits_are_not_permuted():
    model = tiny_bert(num_labels=2)
    model.classifier.weight = torch.nn.Parameter(model.classifier.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="quantised head of a BertForSequenceClassification cannot be reordered"):
        permute_head(model, [1, 0])


def test_permute_head_needs_an_output_layer():
    model = tiny_bert(layers=1)
    model.classifier = torch.nn.Identity()
    with pytest.raises(ValueError, match="no linear layer with 3 outputs"):
        permute_head(model, [0, 2, 1])


OF_TWO_HEADS = {
    "DeiTForImageClassificationWithTeacher": {
        "model_type": "deit",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "LevitForImageClassificationWithTeacher": {"model_type": "levit"},
    "SwiftFormerForImageClassification": {"model_type": "swiftformer", "depths": [1] * 4, "embed_dims": [8] * 4},
}


def of_two_heads(kind):
    config = AutoConfig.for_model(**OF_TWO_HEADS[kind])
    set_labels(config, NAMES)
    return getattr(transformers, kind)(config)


@pytest.mark.parametrize("kind", OF_TWO_HEADS)
def test_a_model_of_two_heads_keeps_them_in_their_order(kind):
    model = of_two_heads(kind)
    before = [parameter.clone() for parameter in model.parameters()]
    align_labels(model, NAMES)  # the same order needs no change
    with pytest.raises(ValueError, match=f"{kind}, which has two heads.*: take a model with one"):
        align_labels(model, NAMES[::-1])
    assert all(map(torch.equal, before, model.parameters()))
