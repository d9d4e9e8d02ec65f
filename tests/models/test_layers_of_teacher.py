"""Students that are made of some of their teacher's layers."""

import copy

import pytest
import torch
from helpers.tiny import SIZES, tiny_batch, tiny_bert
from helpers.tiny_lm import padded_batches, rows, tiny_lm
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_kd_lambda.models.layers_of_teacher import LAYERS_OF_MODEL_TYPE, student_from_layers

NAMES = ["negative", "neutral", "positive"]
OF_TEXTS = [model_type for model_type in LAYERS_OF_MODEL_TYPE if model_type not in ("deit", "vit")]
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
SETTINGS_OF_MODEL_TYPE = {
    "electra": {"embedding_size": 16},
    "deberta": DISENTANGLED,
    "deberta-v2": {
        **DISENTANGLED,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "modernbert": {"local_attention": 4, "pad_token_id": 0},
    "distilbert": {"dim": 32, "n_heads": 2, "hidden_dim": 64},
    **{
        model_type: {"pad_token_id": 0, "num_key_value_heads": 2}
        for model_type in ("gpt2", "llama", "mistral", "qwen2", "qwen3")
    },
}


def tiny_model(model_type: str, layers: int = 4):
    settings = SIZES | SETTINGS_OF_MODEL_TYPE.get(model_type, {}) | {"num_hidden_layers": layers}
    config = AutoConfig.for_model(model_type, num_labels=3, id2label=dict(enumerate(NAMES)), **settings)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():  # LayerNorms and biases start equal in every layer, which would hide a mix-up
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def without_other_layers(teacher, layers):
    """The teacher with the other encoder layers taken out of its module list."""
    model = copy.deepcopy(teacher)
    path = f"{model.base_model_prefix}.{LAYERS_OF_MODEL_TYPE[model.config.model_type]}"
    parent, name = path.rsplit(".", maxsplit=1)
    setattr(model.get_submodule(parent), name, nn.ModuleList(model.get_submodule(path)[layer] for layer in layers))
    return model


@torch.no_grad()
def logits(model):
    torch.manual_seed(0)
    return model(**tiny_batch()).logits


@pytest.mark.parametrize("model_type", OF_TEXTS)
def test_student_computes_what_the_teacher_does_without_its_other_layers_also_when_saved(model_type, tmp_path):
    teacher = tiny_model(model_type)
    first = [0] if model_type == "modernbert" else []
    student = student_from_layers(teacher, [*first, 3, 1])
    torch.testing.assert_close(logits(student), logits(without_other_layers(teacher, [*first, 3, 1])))
    assert not torch.allclose(logits(student), logits(student_from_layers(teacher, [*first, 1, 3])), rtol=1e-3)
    student.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(student)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.config.num_hidden_layers == len(first) + 2
    assert loaded.config.id2label == dict(enumerate(NAMES))
    torch.testing.assert_close(logits(loaded), logits(student))


@pytest.mark.parametrize("model_type", OF_TEXTS)
def test_student_with_all_layers_is_the_teacher(model_type):
    teacher = tiny_model(model_type, layers=2)
    torch.testing.assert_close(logits(student_from_layers(teacher, [0, 1])), logits(teacher))


def test_layers_of_modernbert_keep_their_kind_of_attention():
    teacher = tiny_model("modernbert")
    student = student_from_layers(teacher, [0, 3, 1])
    assert student.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    other = student_from_layers(teacher, [0, 3, 1])
    other.model.layers[1].attention_type = "sliding_attention"  # as of the second layer of the teacher
    assert not torch.allclose(logits(other), logits(student), rtol=1e-3), "the window would make no difference"


def test_layers_of_modernbert_begin_with_its_first():
    with pytest.raises(ValueError, match=r"student_layers=\[1, 0\]: .* no norm before its attention.* with layer 0"):
        student_from_layers(tiny_model("modernbert"), [1, 0])


def test_layers_that_divide_attention_by_their_number_keep_it():
    settings = SIZES | SETTINGS_OF_MODEL_TYPE["gpt2"] | {"scale_attn_by_inverse_layer_idx": True}
    config = AutoConfig.for_model("gpt2", num_labels=3, num_hidden_layers=4, **settings)
    teacher = AutoModelForSequenceClassification.from_config(config).eval()
    expected = logits(without_other_layers(teacher, [0, 1]))
    torch.testing.assert_close(logits(student_from_layers(teacher, [0, 1])), expected)
    for layers in ([0, 3], [1, 0]):
        with pytest.raises(ValueError, match=r"scale_attn_by_inverse_layer_idx.* take the first layers, \[0, 1\]"):
            student_from_layers(teacher, layers)


def test_adapters_are_merged_first():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    teacher = peft.get_peft_model(tiny_model("bert"), settings).eval()
    with pytest.raises(ValueError, match=r"student_layers=\[0, 3\]: the teacher has adapters.*merge_and_unload"):
        student_from_layers(teacher, [0, 3])
    expected = logits(teacher)
    torch.testing.assert_close(logits(student_from_layers(teacher.merge_and_unload(), [0, 1, 2, 3])), expected)


def test_student_shares_nothing_with_the_teacher():
    teacher = tiny_model("bert")
    teacher.requires_grad_(False)
    before = logits(teacher)
    student = student_from_layers(teacher, [0, 3])
    assert all(parameter.requires_grad for parameter in student.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    torch.testing.assert_close(logits(teacher), before)
    assert teacher.config.num_hidden_layers == 4


def test_student_keeps_the_attention_implementation():
    teacher = tiny_model("bert")
    teacher.set_attn_implementation("eager")
    assert student_from_layers(teacher, [0]).config._attn_implementation == "eager"


def test_unsupported_architecture_is_named_with_the_supported_ones():
    config = AutoConfig.for_model("albert", **SIZES, embedding_size=16, num_hidden_layers=2)
    teacher = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ValueError, match=r"student_layers=\[0\].*'albert' teacher.*deberta-v2.*Set student"):
        student_from_layers(teacher, [0])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 4], r"student_layers=\[0, 4\]: layer 4 does not exist: use layers 0 to 3 of the teacher"),
        ([-1], "layer -1 does not exist"),
        ([1, 2, 1], "layer 1 occurs twice"),
        ([], r"student_layers=\[\] keeps no layer: name at least one"),
    ],
)
def test_wrong_layers_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        student_from_layers(tiny_bert(), layers)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "mistral", "qwen2", "qwen3"])
def test_a_language_model_of_layers_is_the_teacher_without_the_others(tmp_path, model_type):
    torch.manual_seed(0)
    teacher = tiny_lm(model_type, initializer_range=0.3).eval()
    teacher.generation_config.max_new_tokens = 7
    student = student_from_layers(teacher, [0, 2])
    (batch, *_) = padded_batches(rows())
    layers = teacher.base_model.h if model_type == "gpt2" else teacher.base_model.layers
    del layers[3], layers[1]
    expected = teacher(**batch, use_cache=False).logits
    torch.testing.assert_close(student(**batch, use_cache=False).logits, expected)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).logits, expected)
    assert loaded.generation_config.max_new_tokens == 7


@pytest.mark.parametrize("teacher", ["a/folder", nn.Linear(2, 3)])
def test_what_is_no_model_is_refused(teacher):
    with pytest.raises(ValueError, match=r"teacher is a .*, not a model of Transformers: load it first"):
        student_from_layers(teacher, [0])
