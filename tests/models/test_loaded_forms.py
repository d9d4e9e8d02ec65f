"""Models in half precision, quantised, or on several devices."""

import copy

import pytest
import torch
from helpers.tiny import save_checkpoint, tiny_batch, tiny_bert
from torch import nn
from transformers import AutoModelForSequenceClassification, ResNetConfig, ResNetForImageClassification

from hf_kd_lambda.models.labels import permute_head
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.models.loaded_forms import is_placed, is_quantised, read_in_own_precision
from hf_kd_lambda.models.protocol import check_model
from hf_kd_lambda.utils.fingerprint import model_digest


def by_torchao(folder):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = bert()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def by_bitsandbytes(folder, **settings):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**settings)
    checkpoint = save_checkpoint(bert(), folder)
    return AutoModelForSequenceClassification.from_pretrained(checkpoint, quantization_config=config)


def bert():
    torch.manual_seed(0)
    return tiny_bert(layers=1, hidden_size=64).eval()


QUANTISED = pytest.mark.parametrize(
    "quantise",
    [
        by_torchao,
        lambda folder: by_bitsandbytes(folder, load_in_8bit=True),
        lambda folder: by_bitsandbytes(folder, load_in_4bit=True),
    ],
    ids=["torchao", "8 bits", "4 bits"],
)


@QUANTISED
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_teaches_and_is_known_by_its_weights(tmp_path, quantise):
    model = quantise(tmp_path)
    assert is_quantised(model)
    assert not is_quantised(bert())
    digest = model_digest(model)
    logits = model(**tiny_batch()).logits
    assert logits.shape == (4, 3)
    assert model_digest(model) == digest, "a forward pass does not change it"
    assert model_digest(quantise(tmp_path)) == digest
    assert model_digest(bert()) != digest
    assert check_model(model, "teacher") is model
    with pytest.raises(ValueError, match=r"has no trainable parameter|has quantised layers, which cannot be trained"):
        check_model(model, "student")
    with pytest.raises(ValueError, match="weights of the teacher are quantised"):
        student_from_layers(model, [0])


def test_another_quantised_weight_makes_another_digest(tmp_path):
    first, second = by_torchao(tmp_path), by_torchao(tmp_path)
    second.classifier.weight.scale.mul_(2)
    assert model_digest(first) != model_digest(second)


def test_the_outputs_of_a_quantised_head_are_permuted_or_refused(tmp_path):
    batch, model = tiny_batch(), by_torchao(tmp_path)
    before = model(**batch).logits
    permute_head(model, [2, 0, 1])
    torch.testing.assert_close(model(**batch).logits, before[:, [2, 0, 1]])
    with pytest.raises(ValueError, match="quantised head of a BertForSequenceClassification cannot be reordered"):
        permute_head(by_bitsandbytes(tmp_path, load_in_4bit=True), [2, 0, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_half_precision_reads_images_in_fp32(dtype):
    config = ResNetConfig(num_channels=1, depths=[1], hidden_sizes=[8], embedding_size=8, num_labels=3)
    model = ResNetForImageClassification(config).eval()
    images = torch.randn(2, 1, 8, 8)
    expected = copy.deepcopy(model)(images).logits
    model.to(dtype)
    for _ in range(2):  # a job does it, and its trainer
        read_in_own_precision(model)
    assert len(model._forward_pre_hooks) == (dtype == torch.bfloat16)
    found = model(pixel_values=images).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_only_a_model_on_several_devices_is_placed():
    model = nn.Linear(2, 2)
    assert not is_placed(model)
    for devices, placed in (({"": "cpu"}, False), ({"a": 0, "b": 0}, False), ({"a": 0, "b": "disk"}, True)):
        model.hf_device_map = devices
        assert is_placed(model) == placed
