"""Models from scratch: what a mapping describes, and what is wrong with it."""

import pytest
import torch
from tiny_images import MOBILENET, NAMES, NARROW, VIT, WIDE
from transformers import AutoModelForImageClassification

from hf_kd_lambda.architectures import config_of, new_model
from hf_kd_lambda.arguments import ModelArguments
from hf_kd_lambda.parser import parse


def model(architecture, names=NAMES):
    return new_model("student_architecture", architecture, names, AutoModelForImageClassification)


DEIT = {**VIT, "model_type": "deit"}


@pytest.mark.parametrize("architecture", [WIDE, VIT, DEIT, MOBILENET], ids=lambda each: each["model_type"])
def test_a_model_has_the_fields_and_the_labels(architecture):
    made = model(architecture)
    for name, value in architecture.items():
        assert getattr(made.config, name) == value
    assert made.config.id2label == dict(enumerate(NAMES))
    assert made.config.problem_type == "single_label_classification"
    side = architecture["image_size"]
    assert made.eval()(torch.zeros(2, 1, side, side)).logits.shape == (2, 3)


def test_the_seed_draws_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([each.flatten() for each in model(NARROW).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"model_type": "resnett"}, "unknown model_type 'resnett': did you mean 'resnet'"),
        ({"depths": [1]}, "unknown model_type None"),
        ({**NARROW, "hiden_sizes": [8]}, "unknown field of resnet 'hiden_sizes': did you mean 'hidden_sizes'"),
        ({**NARROW, "depths": "deep"}, "student_architecture=.*depths"),
        ({**NARROW, "layer_type": "thick"}, "student_architecture=.*layer_type"),
        ({"model_type": "t5"}, "makes no AutoModelForImageClassification"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(architecture, message):
    with pytest.raises(ValueError, match=message):
        model(architecture)


def test_any_model_may_have_an_image_size():
    assert config_of("student_architecture", {**NARROW, "image_size": 24}).image_size == 24


# --- as settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "s"}, "no teacher: set teacher to a checkpoint, or teacher_architecture"),
        ({"teacher": "t", "student": "s", "teacher_architecture": NARROW}, "both name a teacher: give one"),
        ({"teacher": "t", "student": "s", "student_architecture": NARROW}, "both name a student: give one"),
        ({"teacher": "t", "student_layers": [0], "student_architecture": NARROW}, "both name a student: give one"),
        ({"teacher_architecture": NARROW, "student": "s"}, "knows nothing: set teacher_finetune to true"),
        ({"teacher": "t", "student_architecture": "resnet"}, "student_architecture='resnet' must be a mapping"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**settings)


def test_the_command_line_replaces_the_files_models(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "teacher_architecture: {model_type: resnet}\nteacher_finetune: true\n"
        "student_architecture: {model_type: resnet, depths: [1, 1]}\ndataset: digits\noutput_dir: out\n"
    )
    models = parse([str(path)])[0]
    assert models.student_architecture == {"model_type": "resnet", "depths": [1, 1]}
    models = parse([str(path), "--teacher", "t", "--student_architecture", '{"model_type": "vit"}'])[0]
    assert (models.teacher, models.teacher_architecture) == ("t", None)
    assert models.student_architecture == {"model_type": "vit"}
    assert parse([str(path), "--student", "s"])[0].student_architecture is None
