"""What is inside of two vision transformers: every patch counts, and the two must have the same ones."""

import copy
import json

import pytest
import torch
from helpers.small_jobs import job
from helpers.small_runs import BATCH, STEPS, config, flat, logged, make_trainer, train
from helpers.tiny_images import NARROW, VIT, image_settings, tensors, tiny_classifier
from safetensors.torch import load_file
from torch import nn

COUNT = STEPS * BATCH
TWO_LAYERS = {**VIT, "num_hidden_layers": 2}
OF_WIDTH_8 = {**TWO_LAYERS, "hidden_size": 8, "intermediate_size": 16}
ALL = {
    "hidden_mse": 1.0,
    "hidden_cosine": 1.0,
    "pkd": 1.0,
    "embedding_mse": 1.0,
    "attention_maps": 1.0,
    "attention_kl": 1.0,
    "relations": {"relation_heads": 4},
    "value_relations": {"relation_heads": 4},
}
PROJECTED = ["hidden_mse", "hidden_cosine", "pkd", "embedding_mse"]
VARIANTS = ["hidden_cosine", "pkd", "embedding_mse", "attention_kl", "value_relations"]
"""Losses whose code others run, too."""


def pair(student=TWO_LAYERS, teacher=VIT):
    return tiny_classifier(teacher), tiny_classifier(student, seed=1)


def inside(model, pixels):
    """Hidden states, attention maps, and the vectors that a layer's three linear layers make, by hand."""
    found = {"vectors": []}
    hooks = [
        module.register_forward_hook(lambda module, args, output: found["vectors"].append(output))
        for name, module in model.named_modules()
        if name.endswith(("q_proj", "k_proj", "v_proj"))
    ]
    model.set_attn_implementation("eager")
    outputs = model.eval()(pixels, output_hidden_states=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    return outputs.hidden_states, outputs.attentions, found["vectors"]


def relations(vectors):
    heads = vectors.unflatten(-1, (4, -1)).transpose(1, 2)
    return (heads @ heads.mT / heads.shape[-1] ** 0.5).softmax(-1)


def divergence(student, teacher):
    """KL(teacher ‖ student) of rows, the mean over all rows."""
    return (teacher * (teacher / student).log()).sum(-1).mean()


def test_every_loss_is_that_of_all_patches(tmp_path):
    teacher, student = pair()
    with torch.no_grad():  # new weights are so small that all attention is alike
        for name, parameter in [*teacher.named_parameters(), *student.named_parameters()]:
            if name.endswith("weight") and parameter.dim() == 2:
                parameter.normal_(std=0.4)
    twins, data = copy.deepcopy((student, teacher)), tensors(COUNT)
    trainer = train(config(tmp_path, kd_losses=ALL, max_steps=1), teacher, student, data)

    with torch.no_grad():
        (ours, our_maps, our_vectors), (theirs, their_maps, their_vectors) = (
            inside(model, torch.tensor(data["pixel_values"][:BATCH])) for model in twins
        )
    assert ours[0].shape == (BATCH, 17, 16)
    # Counted from 1, layers 1 and 2 of the student learn from 2, as 1.5 is rounded up, and 3 of the teacher.
    states = [(ours[1], theirs[2]), (ours[2], theirs[3])]
    cosines = torch.stack([nn.functional.cosine_similarity(s, t, dim=-1) for s, t in states])
    last = [divergence(relations(s), relations(t)) for s, t in zip(our_vectors[-3:], their_vectors[-3:], strict=True)]
    expected = {
        "hidden_mse": sum((s - t).square().mean() for s, t in states) / 2,
        "hidden_cosine": 1 - cosines.mean(),
        "pkd": 2 * (1 - cosines.mean()),
        "embedding_mse": (ours[0] - theirs[0]).square().mean(),
        "attention_maps": sum((our_maps[s] - their_maps[t]).square().mean() for s, t in ((0, 1), (1, 2))) / 2,
        "attention_kl": divergence(our_maps[-1], their_maps[-1]),
        "relations": sum(last) / 3,
        "value_relations": last[2],
    }
    assert expected.keys() == ALL.keys()
    for name, value in expected.items():
        assert logged(trainer.state.log_history, f"kd_loss/{name}") == pytest.approx([value.item()], rel=1e-4)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in VARIANTS)) for name in ALL])
def test_each_loss_alone_trains_and_falls(tmp_path, name):
    student = OF_WIDTH_8 if name in PROJECTED else TWO_LAYERS
    rule = {"lambda_rule": "fixed", "kd_weight": 1.0, "optim": "adamw_torch", "learning_rate": 5e-3}
    args = config(tmp_path, kd_losses={name: ALL[name]}, num_train_epochs=5, **rule)
    trainer = train(args, *pair(student), tensors(COUNT))
    found = logged(trainer.state.log_history, "kd_loss")
    assert all(torch.tensor(found).isfinite())
    assert sum(found[-6:]) < 0.9 * sum(found[:6])


def test_a_narrower_student_is_projected_and_lambda_measured(tmp_path):
    teacher, student = pair(OF_WIDTH_8)
    trainer = make_trainer(config(tmp_path, kd_losses={"hidden_mse": 1.0}, max_steps=1), teacher, student, tensors(8))
    assert {name: layer.weight.shape for name, layer in student.kd_projections.items()} == {
        "1": (16, 8),
        "2": (16, 8),
    }
    twin = copy.deepcopy(student)
    trainer.train()
    pixels = torch.tensor(tensors(8)["pixel_values"][:])
    ours = twin(pixels, output_hidden_states=True).projected_states
    theirs = teacher.eval()(pixels, output_hidden_states=True).hidden_states
    hidden = sum((ours[s] - theirs[t]).square().mean() for s, t in ((1, 2), (2, 3))) / 2
    named = [parameter for name, parameter in twin.named_parameters() if "kd_projections" not in name]
    gradients = torch.autograd.grad(hidden, named, allow_unused=True)
    norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item()
    assert logged(trainer.state.log_history, "kd_loss") == pytest.approx([hidden.item()], rel=1e-4)
    assert logged(trainer.state.log_history, "grad_norm_kd") == pytest.approx([norm], rel=1e-3)


def test_kept_hidden_states_train_as_the_teacher_does(tmp_path):
    kd_losses = {"soft_targets": 1.0, "hidden_mse": 1.0, "embedding_mse": 1.0}
    kept = {"cache_hidden_states": True, "teacher_cache_dir": str(tmp_path / "cache")}
    online, cached = (
        train(config(tmp_path, kd_losses=kd_losses, **settings), *pair(), tensors(COUNT))
        for settings in ({"cache_teacher": False}, kept)
    )
    assert "teacher_outputs" in cached.train_dataset.column_names
    distance = (flat(online.model) - flat(pair()[1])).norm()
    assert (flat(cached.model) - flat(online.model)).norm() < 1e-3 * distance
    for name in ("kd_loss/hidden_mse", "lambda"):
        found, expected = (logged(run.state.log_history, name) for run in (cached, online))
        assert found == pytest.approx(expected, rel=1e-4)


def test_images_without_a_label_count_in_the_kd_loss(tmp_path):
    args = config(tmp_path, kd_losses={"hidden_mse": 1.0}, max_steps=1)
    values = []
    for first in (0, -100):
        data = tensors(BATCH)
        labels = [first, *data["labels"][1:]]
        data = data.remove_columns("labels").add_column("labels", labels)
        values += logged(train(args, *pair(), data).state.log_history, "kd_loss")
    teacher, student = pair()
    pixels = torch.tensor(tensors(BATCH)["pixel_values"][:])
    with torch.no_grad():
        ours, theirs = (inside(model, pixels)[0] for model in (student, teacher))
    of_images = sum((ours[s] - theirs[t]).square().mean((1, 2)) for s, t in ((1, 2), (2, 3))) / 2
    assert values == pytest.approx([of_images.mean().item()] * 2, rel=1e-4)


# --- refusals, before training


def refused(folder, kd_losses, student, teacher=VIT):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the messages are what the callers look at
        make_trainer(config(folder, kd_losses=kd_losses), *pair(student, teacher), tensors(BATCH))
    return str(error.value)


def test_unlike_numbers_of_patches(tmp_path):
    coarse = {**TWO_LAYERS, "patch_size": 8}
    assert refused(tmp_path, {"hidden_mse": 1}, coarse) == (
        "kd_losses: hidden_mse: layer 0 of the student gives 5 tokens, layer 1 of the teacher 17 tokens: take losses "
        "of the logits, or models of one kind and the same image_size and patch_size. The student's layers, from 0, "
        "give 5 tokens, 5 tokens; the teacher's 17 tokens, 17 tokens, 17 tokens."
    )
    for name in ("embedding_mse", "attention_maps", "attention_kl", "relations"):
        assert refused(tmp_path, {name: ALL[name]}, coarse) == (
            f"kd_losses: {name}: compares positions one by one, but of examples × positions, the student gives 1 × 5, "
            "the teacher 1 × 17, and the batch has 1 × 5: use losses of the logits, or two models of one architecture "
            "and input size that neither pool tokens nor attend within windows."
        )


def test_a_deit_has_a_token_more_than_a_vit(tmp_path):
    deit = {**TWO_LAYERS, "model_type": "deit", "architectures": []}
    assert "gives 18 tokens, layer 1 of the teacher 17 tokens" in refused(tmp_path, {"pkd": 1}, deit)
    make_trainer(config(tmp_path, kd_losses=ALL), *pair(deit, {**deit, "num_hidden_layers": 3}), tensors(BATCH))


def test_hidden_states_of_a_vit_and_feature_maps(tmp_path):
    message = (
        "kd_losses: hidden_mse: layer 0 of the student gives 4 × 4, layer 0 of the teacher 17 tokens: take losses"
    )
    assert refused(tmp_path, {"hidden_mse": {"layers": {0: 0}}}, NARROW).startswith(message)
    message = "kd_losses: embedding_mse: needs tokens, but student or teacher has feature maps: use feature_mse"
    assert refused(tmp_path, {"embedding_mse": 1}, NARROW).startswith(message)


def test_losses_of_feature_maps_of_two_vits(tmp_path):
    for name in ("feature_mse", "attention_transfer"):
        assert f"kd_losses: {name}: needs feature maps" in refused(tmp_path, {name: 1}, TWO_LAYERS)


# --- a whole job


def test_a_narrower_new_vit_learns_from_the_hidden_states_of_another_in_a_job(tmp_path):
    given = image_settings(
        tmp_path,
        teacher_architecture=json.dumps(VIT),
        student_architecture=json.dumps(OF_WIDTH_8),
        kd_losses=json.dumps({"soft_targets": 1, "hidden_mse": 2}),
        cache_hidden_states=True,
        num_train_epochs=8,
    )
    small = job(given)
    small.check()
    small.run()
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    hidden = logged(history, "kd_loss/hidden_mse")
    assert len(hidden) == 32
    assert sum(hidden[-8:]) < 0.9 * sum(hidden[:8])
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert not [name for name in saved if "kd_projections" in name]
    assert saved["vit.embeddings.cls_token"].shape[-1] == 8
