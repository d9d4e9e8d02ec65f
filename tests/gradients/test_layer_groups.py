"""Which layer a parameter belongs to, by its name."""

import pytest
from helpers.small_runs import BATCH, config, train
from helpers.tiny import tiny_bert
from helpers.tiny_images import MOBILENET, RESNET, VIT, WIDE, tensors, tiny_classifier
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_kd_lambda.gradients.layer_groups import layer_groups

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 20,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
RELATIVE = {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}
FAMILIES = {
    "bert": {},
    "roberta": {},
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 16, "n_layers": 2},
    "electra": {"embedding_size": 8},
    "deberta-v2": RELATIVE,
    "mpnet": {},
    "gpt2": {"n_embd": 16, "n_head": 2, "n_layer": 2},
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {},
}


def named_groups(names):
    groups, labels = layer_groups(names)
    return {name: labels[group] for name, group in zip(names, groups, strict=True)}


def parameter_names(model: nn.Module):
    return [name for name, _ in model.named_parameters()]


def classifier(family: str):
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **SIZES, **FAMILIES[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_embeddings_layers_and_a_head(family):
    names = parameter_names(classifier(family))
    assert layer_groups(names)[1] == ["embeddings", "layer.0", "layer.1", "head"]
    labels = named_groups(names)
    first, second = (
        [name.replace(f".{number}.", ".N.") for name, label in labels.items() if label == f"layer.{number}"]
        for number in (0, 1)
    )
    assert first == second, "both layers are the same but for their number"
    assert len(first) > 8
    ends = [label for name, label in labels.items() if name.startswith(("classifier.", "score."))]
    assert ends
    assert set(ends) == {"head"}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("bert.embeddings.LayerNorm.bias", "embeddings"),
        ("bert.encoder.layer.3.attention.self.query.weight", "layer.3"),
        ("bert.pooler.dense.weight", "head"),
        ("pre_classifier.weight", "head"),
        ("electra.embeddings_project.weight", "embeddings"),
        ("deberta.encoder.rel_embeddings.weight", "embeddings"),
        ("deberta.encoder.LayerNorm.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("transformer.h.11.mlp.c_fc.weight", "layer.11"),
        ("transformer.ln_f.bias", "head"),
        ("model.layers.7.mlp.experts.3.up_proj.weight", "layer.7"),
        ("model.norm.weight", "head"),
        ("albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", "layer.0"),
        ("encoder.block.5.layer.0.SelfAttention.q.weight", "layer.5"),
        ("classifier.2.weight", "head"),
        ("resnet.encoder.stages.2.layers.5.layer.1.convolution.weight", "stage.2.layer.5"),
        ("swin.encoder.layers.1.blocks.0.attention.q_proj.weight", "stage.1.layer.0"),
        ("pvt.encoder.block.3.1.attention.self.query.weight", "stage.3.layer.1"),
        ("efficientnet.encoder.blocks.4.expansion.expand_conv.weight", "layer.4"),
        ("mobilenet_v2.conv_stem.first_conv.convolution.weight", "embeddings"),
        ("mobilenet_v2.conv_1x1.convolution.weight", "head"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_the_group_of_one_name(name, group, prefix):
    assert named_groups([prefix + name]) == {prefix + name: group}


def test_groups_go_from_input_to_output_whatever_the_order_of_the_names():
    names = [f"bert.encoder.layer.{number}.output.dense.bias" for number in (10, 2, 0)]
    groups, labels = layer_groups(["classifier.bias", *names, "bert.embeddings.LayerNorm.bias"])
    assert labels == ["embeddings", "layer.0", "layer.2", "layer.10", "head"]
    assert groups == [4, 3, 2, 1, 0]


def of_stages(*stages):
    return [f"stage.{stage}{layer}" for stage, layers in enumerate(stages) for layer in layers]


LAYERS = [".layer.0", ".layer.1"]
IMAGES = {"num_channels": 1, "image_size": 32}


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        (RESNET | {"hidden_sizes": [8, 16], "depths": [2, 2]}, of_stages(LAYERS, LAYERS)),
        (
            IMAGES | {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2},
            of_stages(LAYERS, ["", *LAYERS]),
        ),
        (
            IMAGES | {"model_type": "swin", "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
            of_stages(["", *LAYERS], LAYERS),
        ),
        (MOBILENET, [f"layer.{number}" for number in range(16)]),
        (VIT, [f"layer.{number}" for number in range(3)]),
    ],
    ids=["resnet", "convnext", "swin", "mobilenet_v2", "vit"],
)
def test_layers_of_two_stages_are_two_groups(architecture, layers):
    assert layer_groups(parameter_names(tiny_classifier(architecture)))[1] == ["embeddings", *layers, "head"]


def test_each_layer_of_each_stage_has_its_own_lambda(tmp_path):
    student = tiny_classifier(RESNET | {"embedding_size": 8, "hidden_sizes": [4, 8], "depths": [2, 2]})
    args = config(tmp_path, lambda_scope="layer", max_steps=1)
    trainer = train(args, tiny_classifier(WIDE, seed=1), student, tensors(BATCH))
    logged = {name.removeprefix("lambda/") for name in trainer.state.log_history[0] if name.startswith("lambda/")}
    assert logged == {"embeddings", *of_stages(LAYERS, LAYERS), "head"}


def test_modules_of_a_stage_outside_its_layers_are_no_layer():
    labels = named_groups(
        ["swin.encoder.layers.0.blocks.0.mlp.fc1.bias", "swin.encoder.layers.0.downsample.norm.bias"]
    )
    assert [*labels.values()] == ["stage.0.layer.0", "stage.0"]


def test_tied_weights_count_where_they_are_named():
    config = AutoConfig.for_model("gpt2", **SIZES, **FAMILIES["gpt2"])
    labels = named_groups(parameter_names(AutoModelForCausalLM.from_config(config)))
    assert labels["transformer.wte.weight"] == "embeddings"
    assert not any("lm_head" in name for name in labels)


def test_what_has_no_layers_is_a_head():
    assert layer_groups(["0.weight", "0.bias", "2.weight"]) == ([0, 0, 0], ["head"])


def test_the_groups_partition_a_model():
    names = parameter_names(tiny_bert(layers=3))
    groups, labels = layer_groups(names)
    assert len(groups) == len(names)
    assert sorted(set(groups)) == list(range(len(labels)))
