import pytest
import torch
from helpers.named_bert import NAMES, logits, named_bert
from helpers.tiny import save_checkpoint, tiny_bert
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    BertForMaskedLM,
    CLIPConfig,
    CLIPForImageClassification,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
)

from hf_kd_lambda.models.classifiers import load_classifier

LAST = "encoder.layers.1.mlp.fc2.weight"


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


def test_a_model_of_two_heads_gets_no_new_one(tmp_path):
    config = SwiftFormerConfig(depths=[1] * 4, embed_dims=[8] * 4, id2label=dict(enumerate(NAMES)))
    SwiftFormerForImageClassification(config).save_pretrained(tmp_path)
    load_classifier(str(tmp_path), NAMES, auto_class=AutoModelForImageClassification)
    with pytest.raises(ValueError, match="SwiftFormerForImageClassification, which has two heads"):
        load_classifier(str(tmp_path), ["cat", "dog"], auto_class=AutoModelForImageClassification)
