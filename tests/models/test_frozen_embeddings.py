"""Students whose token embeddings are not trained."""

import copy
import json

import pytest
import torch
from helpers.small_jobs import job, settings
from helpers.small_runs import assert_same_run, config, examples, flat, make_trainer, models, reference_run, train
from helpers.tiny_images import VIT, WIDE, tiny_classifier
from helpers.tiny_lm import tiny_lm
from safetensors.torch import load_file

from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.models.frozen_embeddings import freeze_embeddings

TABLE = "bert.embeddings.word_embeddings.weight"


def frozen_models():
    teacher, student = models()
    freeze_embeddings(student)
    return teacher, student


def frozen(model):
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def test_the_embeddings_of_tokens_alone_are_frozen():
    assert frozen(frozen_models()[1]) == [TABLE]
    untied = tiny_lm("llama", tie_word_embeddings=False)
    freeze_embeddings(untied)
    assert frozen(untied) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: tiny_lm("gpt2"),
            r"a GPT2LMHeadModel are also weights .*\(transformer\.wte\.weight, lm_head\.weight\)",
        ),
        (lambda: tiny_classifier(WIDE), "a ResNetForImageClassification has no embeddings of tokens"),
        (lambda: tiny_classifier(VIT), "a ViTForImageClassification has no embeddings of tokens"),
    ],
    ids=["tied", "ResNet", "ViT"],
)
def test_embeddings_that_cannot_be_frozen_are_refused(model, message):
    student = model()
    with pytest.raises(ValueError, match=f"freeze_embeddings=True: .*{message}"):
        freeze_embeddings(student)
    assert frozen(student) == []


def test_the_rest_is_trained_as_by_plain_autograd(tmp_path):
    teacher, student = frozen_models()
    twin, before = copy.deepcopy(student), copy.deepcopy(student.state_dict())
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    steps = reference_run(twin, teacher, examples(), torch.optim.SGD(trained, lr=0.01))
    trainer = train(config(tmp_path), teacher, student, examples())
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps)
    same = {name for name, weight in trainer.model.state_dict().items() if torch.equal(weight, before[name])}
    assert TABLE in same
    assert "bert.embeddings.position_embeddings.weight" not in same


def test_a_resumed_run_has_no_optimizer_state_of_them_and_ends_the_same(tmp_path):
    saving = {"optim": "adamw_torch", "save_strategy": "steps", "save_steps": 3}
    whole = train(config(tmp_path, **saving), *frozen_models(), examples())
    stepped = set(whole.optimizer.state)
    assert [name for name, parameter in whole.model.named_parameters() if parameter not in stepped] == [TABLE]
    resumed = make_trainer(config(tmp_path, **saving), *frozen_models(), examples())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    torch.testing.assert_close(flat(resumed.model), flat(whole.model), rtol=1e-5, atol=1e-6)


def test_both_students_of_a_job_keep_the_teachers_embeddings(tmp_path):
    given = settings(tmp_path, student_without_kd=True, freeze_embeddings=True)
    whole = job(given)
    whole.check()
    whole.run()
    teacher, *students = (
        load_file(tmp_path / "out" / name / "model.safetensors") for name in ("teacher", ".", "without_kd")
    )
    for student in students:
        assert torch.equal(student[TABLE], teacher[TABLE])
        assert not torch.equal(student["classifier.weight"], teacher["classifier.weight"])
    assert job(given).student_settings["freeze_embeddings"] is True
    assert job(given | {"freeze_embeddings": False}).student_settings["freeze_embeddings"] is False


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student_layers": [0], "lora": json.dumps({"r": 4})}, r"lora={'r': 4} already freezes all"),
        ({"student_architecture": {"model_type": "bert"}}, r"student_architecture={'model_type': 'bert'} are new"),
    ],
)
def test_settings_that_leave_nothing_to_freeze_or_to_keep_are_refused(changed, message):
    with pytest.raises(ValueError, match=f"freeze_embeddings=True: .*{message}"):
        ModelArguments(teacher="teacher", freeze_embeddings=True, **changed)
