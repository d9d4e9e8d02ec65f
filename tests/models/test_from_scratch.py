"""Models from scratch: what a mapping describes, and what is wrong with it."""

import pytest
import torch
from helpers.tiny import VOCABULARY, tiny_tokenizer
from helpers.tiny_images import MOBILENET, NAMES, NARROW, VIT, WIDE
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.models.from_scratch import config_of, model_from_scratch, with_tokens


def model(architecture, names=NAMES):
    return model_from_scratch("student_architecture", architecture, names, AutoModelForImageClassification)


DEIT = {**VIT, "model_type": "deit"}


@pytest.mark.parametrize("architecture", [WIDE, VIT, DEIT, MOBILENET], ids=lambda given: given["model_type"])
def test_a_model_has_the_fields_and_the_labels(architecture):
    made = model(architecture)
    for name, value in architecture.items():
        assert getattr(made.config, name) == value
    assert made.config.id2label == dict(enumerate(NAMES))
    assert made.config.problem_type == "single_label_classification"
    side = architecture["image_size"]
    assert made.eval()(torch.zeros(2, 1, side, side)).logits.shape == (2, 3)


def test_fields_may_have_the_names_that_all_models_share():
    assert config_of("student_architecture", {"model_type": "distilbert", "num_hidden_layers": 2}).n_layers == 2


def test_a_language_model_has_no_labels():
    fields = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 4, "vocab_size": 8}
    made = model_from_scratch("student_architecture", fields, None, AutoModelForCausalLM)
    assert made.config.problem_type is None


def test_the_seed_draws_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in model(NARROW).parameters()])

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
        ({"model_type": "t5"}, "is no valid AutoModelForImageClassification"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(architecture, message):
    with pytest.raises(ValueError, match=message):
        model(architecture)


def test_any_model_may_have_an_image_size():
    assert config_of("student_architecture", {**NARROW, "image_size": 24}).image_size == 24


# --- of texts


@pytest.mark.parametrize(
    ("architecture", "special"),
    [
        ({"model_type": "mobilebert"}, {"pad": 0}),
        ({"model_type": "llama"}, {"pad": 0, "bos": None, "eos": None}),
        ({"model_type": "modernbert"}, {"pad": 0, "bos": None, "eos": None, "cls": 2, "sep": 3}),
        ({"model_type": "llama", "bos_token_id": 5}, {"pad": 0, "bos": 5, "eos": None}),
    ],
)
def test_a_model_knows_the_special_tokens_that_its_kind_asks_for(architecture, special):
    fields = with_tokens("student_architecture", architecture, tiny_tokenizer(), len(VOCABULARY))
    own = {f"{name}_token_id": index for name, index in special.items()}
    assert fields == {**architecture, **own, "vocab_size": len(VOCABULARY)}
    config = config_of("student_architecture", fields)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize("vocab_size", [10, len(VOCABULARY) + 1])
def test_a_vocabulary_that_is_not_the_teachers(vocab_size):
    message = f"student_architecture: vocab_size={vocab_size} differs from the teacher's {len(VOCABULARY)}, .*leave"
    with pytest.raises(ValueError, match=message):
        with_tokens(
            "student_architecture",
            {"model_type": "bert", "vocab_size": vocab_size},
            tiny_tokenizer(),
            len(VOCABULARY),
        )


# --- as settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": "s"}, "no teacher: set teacher to a checkpoint, or teacher_architecture"),
        ({"teacher": "t", "student": "s", "teacher_architecture": NARROW}, "both name a teacher: give one"),
        ({"teacher": "t", "student": "s", "student_architecture": NARROW}, "both name a student: give one"),
        ({"teacher": "t", "student_layers": [0], "student_architecture": NARROW}, "both name a student: give one"),
        ({"teacher_architecture": NARROW, "student": "s"}, "is an untrained teacher: set teacher_finetune to true"),
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
