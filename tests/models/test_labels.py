import pytest
import torch
import transformers
from helpers.tiny import SIZES, save_checkpoint, tiny_batch, tiny_bert
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    CLIPConfig,
    CLIPForImageClassification,
    PreTrainedConfig,
)

from hf_kd_lambda.models import labels
from hf_kd_lambda.models.labels import (
    align_labels,
    freeze,
    label_permutation,
    load_classifier,
    names_of_numbers,
    permute_head,
    set_labels,
)

NAMES = ["negative", "neutral", "positive"]
LAST = "encoder.layers.1.mlp.fc2.weight"


@pytest.fixture
def warnings(monkeypatch):
    """The warnings logged by the module, as a list of texts."""
    texts = []
    monkeypatch.setattr(labels.logger, "warning", lambda text, *args: texts.append(text % args))
    return texts


def named_bert(*names, **config):
    return tiny_bert(num_labels=len(names), layers=1, id2label=dict(enumerate(names)), **config).eval()


@torch.no_grad()
def logits(model):
    torch.manual_seed(0)
    return model(**tiny_batch()).logits


def test_load_keeps_a_head_for_the_same_labels(tmp_path, warnings):
    saved = named_bert(*NAMES)
    loaded = load_classifier(save_checkpoint(saved, tmp_path), NAMES)
    torch.testing.assert_close(logits(loaded), logits(saved))
    assert loaded.config.problem_type == "single_label_classification"
    assert not warnings


def test_load_is_fp32_with_sdpa(tmp_path):
    loaded = load_classifier(save_checkpoint(named_bert(*NAMES).to(torch.bfloat16), tmp_path), NAMES)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert loaded.config._attn_implementation == "sdpa"


def test_load_brings_outputs_into_the_order_of_the_data(tmp_path):
    saved = named_bert("POSITIVE", "NEGATIVE", "NEUTRAL")
    loaded = load_classifier(save_checkpoint(saved, tmp_path), NAMES)
    torch.testing.assert_close(logits(loaded), logits(saved)[:, [1, 2, 0]])
    assert loaded.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert loaded.config.label2id == {"negative": 0, "neutral": 1, "positive": 2}


def test_new_head_is_fresh_and_the_encoder_is_kept(tmp_path):
    saved = named_bert(*NAMES)
    loaded = load_classifier(save_checkpoint(saved, tmp_path), NAMES, new_head=True)
    assert not torch.equal(loaded.classifier.weight, saved.classifier.weight)
    torch.testing.assert_close(dict(loaded.bert.named_parameters()), dict(saved.bert.named_parameters()))


@pytest.mark.parametrize("names", [["no", "yes"], None])
def test_new_head_has_the_size_of_the_task(tmp_path, names):
    loaded = load_classifier(save_checkpoint(named_bert(*NAMES), tmp_path), names, new_head=True)
    assert logits(loaded).shape == (4, 1 if names is None else 2)
    assert list(loaded.config.id2label.values()) == (names or ["LABEL_0"])
    assert loaded.config.problem_type == ("regression" if names is None else "single_label_classification")


def test_encoder_without_head_gets_one_with_a_warning(tmp_path, warnings):
    encoder = BertForMaskedLM(tiny_bert(num_labels=2, layers=1).config)
    loaded = load_classifier(save_checkpoint(encoder, tmp_path), NAMES)
    assert list(loaded.config.id2label.values()) == NAMES
    (warning,) = warnings
    assert "has no trained classification head: the student gets a new one" in warning
    assert "teacher_finetune" not in warning


@pytest.mark.parametrize("saved", [named_bert("no", "yes"), named_bert("a", "b", "c"), named_bert("score")])
def test_a_head_for_other_labels_is_replaced_with_a_warning_or_refused(tmp_path, saved, warnings):
    checkpoint = save_checkpoint(saved, tmp_path)
    loaded = load_classifier(checkpoint, NAMES)
    assert list(loaded.config.id2label.values()) == NAMES
    assert logits(loaded).shape == (4, 3)
    torch.testing.assert_close(dict(loaded.bert.named_parameters()), dict(saved.bert.named_parameters()))
    (warning,) = warnings
    assert "the student gets a new classification head" in warning
    assert "teacher_finetune" not in warning
    with pytest.raises(ValueError, match="fine-tune the teacher first with teacher_finetune: true"):
        load_classifier(checkpoint, NAMES, require_head=True)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(OSError, match=r"cannot load .*no_such_folder': there is no such folder"):
        load_classifier(str(tmp_path / "no_such_folder"), NAMES)


def test_missing_weights_of_an_encoder_under_another_name_are_refused(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    model = CLIPForImageClassification(CLIPConfig(text_config=sizes, vision_config=vision, num_labels=3))
    loading = {"label_names": NAMES, "new_head": True, "auto_class": AutoModelForImageClassification}
    loaded = load_classifier(save_checkpoint(model, tmp_path), **loading)
    assert torch.equal(loaded.vision_model.state_dict()[LAST], model.vision_model.state_dict()[LAST])
    weights = load_file(tmp_path / "model.safetensors")
    (removed,) = [name for name in weights if name.endswith(LAST)]
    del weights[removed]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"is incomplete: 1 parameters .* such as .*{LAST}, are missing"):
        load_classifier(str(tmp_path), **loading)


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


def test_a_model_of_two_heads_gets_no_new_one(tmp_path):
    of_two_heads("SwiftFormerForImageClassification").save_pretrained(tmp_path)
    load_classifier(str(tmp_path), NAMES, auto_class=AutoModelForImageClassification)
    with pytest.raises(ValueError, match="SwiftFormerForImageClassification, which has two heads"):
        load_classifier(str(tmp_path), ["cat", "dog"], auto_class=AutoModelForImageClassification)


def test_freeze():
    model = tiny_bert(layers=1).train()
    assert freeze(model) is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
