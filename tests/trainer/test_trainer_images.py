"""Training of image classifiers: running statistics, feature maps, and the gradients of both losses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import reference
from helpers.small_runs import (
    BATCH,
    LEARNING_RATE,
    STEPS,
    assert_same_run,
    config,
    flat,
    logged,
    make_trainer,
    reference_run,
)
from helpers.small_runs import train as train_trainer
from helpers.tiny_images import NARROW, VIT, WIDE, batch_norms, tensors, tiny_classifier
from torch import nn

from hf_kd_lambda.losses.functional import attention_transfer_loss, feature_mse_loss

COUNT = STEPS * BATCH


def pair(student=NARROW):
    return tiny_classifier(WIDE), tiny_classifier(student, seed=1)


def plain_loop(student: nn.Module, teacher: nn.Module, data, micro_batch: int) -> None:
    """SGD on ½·task_loss + ½·kd_loss, each step over BATCH examples in micro-batches, with one forward for each."""
    optimizer = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE)
    pixels, labels = torch.tensor(data["pixel_values"][:]), torch.tensor(data["labels"][:])
    teacher.eval()
    for start in range(0, len(pixels), BATCH):
        for first in range(start, start + BATCH, micro_batch):
            rows = slice(first, first + micro_batch)
            logits = student.train()(pixels[rows]).logits
            with torch.no_grad():
                soft = teacher(pixels[rows]).logits
            task = F.cross_entropy(logits, labels[rows], reduction="sum")
            kd = reference.mean_kd_loss(logits, soft) * len(logits)
            ((task + kd) / 2 / BATCH).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_cnn_equals_reference(tmp_path):
    teacher, student = pair()
    twin, data = copy.deepcopy(student), tensors(COUNT)
    steps = reference_run(twin, teacher, data)
    trainer = train_trainer(config(tmp_path), teacher, student, data)
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps, rel=1e-5)


def test_feature_maps_of_a_teacher_in_half_precision_are_compared(tmp_path):
    teacher, student = pair()
    args = config(tmp_path, kd_losses={"feature_mse": 1.0}, precision="bf16")
    trainer = train_trainer(args, teacher.to(torch.bfloat16), student, tensors(COUNT))
    assert all(loss > 0 for loss in logged(trainer.state.log_history, "kd_loss"))


@pytest.mark.parametrize("interval", [1, 2, 100], ids=["measured", "every second measured", "first measured"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_running_statistics_count_each_forward_once(tmp_path, interval, accumulation):
    teacher, student = pair()
    twin, data, micro_batch = copy.deepcopy(student), tensors(COUNT), BATCH // accumulation
    plain_loop(twin, teacher, data, micro_batch)
    args = config(
        tmp_path,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        lambda_interval=interval,
        lambda_min=1.0,
        lambda_max=1.0,
    )
    trainer = train_trainer(args, teacher, student, data)
    expected, found = batch_norms(twin), batch_norms(trainer.model)
    assert expected.keys() == found.keys()
    counted = [int(buffer) for name, buffer in found.items() if name.endswith("num_batches_tracked")]
    assert set(counted) == {STEPS * accumulation}
    for name, buffer in expected.items():
        torch.testing.assert_close(found[name], buffer, rtol=1e-5, atol=1e-6)
    assert (flat(trainer.model) - flat(twin)).norm() < 1e-5 * flat(twin).norm()


def test_the_teachers_statistics_and_mode_never_change(tmp_path):
    teacher, student = pair()
    teacher.train()
    before = batch_norms(teacher)
    args = config(tmp_path, kd_losses={"soft_targets": 1, "feature_mse": 1}, eval_strategy="epoch", lambda_interval=2)
    train_trainer(args, teacher, student, tensors(COUNT), eval_dataset=tensors(12))
    assert not any(module.training for module in teacher.modules())
    after = batch_norms(teacher)
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())


def test_an_evaluation_leaves_the_students_statistics(tmp_path):
    teacher, student = pair()
    trainer = make_trainer(config(tmp_path), teacher, student, tensors(COUNT), eval_dataset=tensors(12))
    before = batch_norms(student)
    trainer.evaluate()
    assert all(torch.equal(buffer, before[name]) for name, buffer in batch_norms(student).items())


def test_feature_maps_are_compared_through_one_by_one_convolutions(tmp_path):
    teacher, student = pair()
    data = tensors(COUNT)
    args = config(tmp_path, kd_losses={"feature_mse": 2.0, "attention_transfer": 1.0}, max_steps=1)
    trainer = make_trainer(args, teacher, student, data)
    kernels = {name: tuple(layer.weight.shape) for name, layer in student.kd_projections.items()}
    assert kernels == {"1": (8, 4, 1, 1), "2": (16, 8, 1, 1)}
    twin = copy.deepcopy(student)
    trainer.train()

    pixels, labels = torch.tensor(data["pixel_values"][:BATCH]), torch.tensor(data["labels"][:BATCH])
    ours = twin.train()(pixels, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher.eval()(pixels, output_hidden_states=True).hidden_states
    losses = {
        name: sum(loss(states[layer], theirs[layer], labels, BATCH) for layer in (1, 2)) / 2
        for name, loss, states in (
            ("feature_mse", feature_mse_loss, ours.projected_states),
            ("attention_transfer", attention_transfer_loss, ours.hidden_states),
        )
    }
    for name, value in losses.items():
        assert logged(trainer.state.log_history, f"kd_loss/{name}") == pytest.approx([value.item()], rel=1e-4)
    named = [parameter for name, parameter in twin.named_parameters() if "kd_projections" not in name]
    kd = 2 * losses["feature_mse"] + losses["attention_transfer"]
    gradients = torch.autograd.grad(kd, named, allow_unused=True)
    norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm().item()
    assert logged(trainer.state.log_history, "grad_norm_kd") == pytest.approx([norm], rel=1e-3)


@pytest.mark.parametrize("name", ["feature_mse", "attention_transfer"])
def test_each_loss_of_feature_maps_falls(tmp_path, name):
    args = config(
        tmp_path,
        kd_losses={name: 1.0},
        lambda_rule="fixed",
        kd_weight=1.0,
        num_train_epochs=8,
        optim="adamw_torch",
        learning_rate=5e-3,
    )
    trainer = train_trainer(args, *pair(), tensors(COUNT))
    found = logged(trainer.state.log_history, "kd_loss")
    assert sum(found[-6:]) < 0.8 * sum(found[:6])


@pytest.mark.parametrize("name", ["feature_mse", "attention_transfer"])
def test_feature_maps_of_unlike_sizes_are_refused(tmp_path, name):
    student = {**NARROW, "hidden_sizes": [4, 8, 8], "depths": [1, 1, 1]}
    message = (
        f"kd_losses: {name}: layer 0 of the student gives 4 × 4, layer 1 of the teacher 2 × 2: name pairs of equal "
        "size in layers. The student's layers, from 0, give 4 × 4, 2 × 2, 1 × 1; the teacher's 4 × 4, 2 × 2."
    )
    layers = {"layers": {0: 1}}
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        make_trainer(config(tmp_path, kd_losses={name: layers}), *pair(student), tensors(COUNT))
    make_trainer(config(tmp_path, kd_losses={name: {"layers": {0: 0, 1: 1}}}), *pair(student), tensors(COUNT))


@pytest.mark.parametrize(
    ("teacher", "student"), [(VIT, NARROW), (WIDE, VIT)], ids=["tokens to maps", "maps to tokens"]
)
def test_feature_maps_and_tokens_are_not_compared(tmp_path, teacher, student):
    with pytest.raises(ValueError, match=r"kd_losses: feature_mse: layer 0 of the student gives .*tokens"):
        make_trainer(
            config(tmp_path, kd_losses={"feature_mse": 1}),
            tiny_classifier(teacher),
            tiny_classifier(student),
            tensors(COUNT),
        )


def test_losses_of_tokens_say_what_images_take(tmp_path):
    with pytest.raises(ValueError, match=r"hidden_mse: .*feature maps: use feature_mse or attention_transfer"):
        make_trainer(config(tmp_path, kd_losses={"hidden_mse": 1}), *pair(), tensors(COUNT))


def test_a_vision_transformer_teaches_a_cnn(tmp_path):
    teacher, student = tiny_classifier(VIT), tiny_classifier(NARROW, seed=1)
    twin, data = copy.deepcopy(student), tensors(COUNT)
    steps = reference_run(twin, teacher, data)
    trainer = train_trainer(config(tmp_path), teacher, student, data)
    assert_same_run(trainer.state.log_history, flat(trainer.model), twin, steps, rel=1e-5)


def test_cached_logits_are_those_of_the_teacher(tmp_path):
    settings = {"teacher_cache_dir": str(tmp_path / "cache"), "lambda_interval": 2}
    online = train_trainer(config(tmp_path, cache_teacher=False, lambda_interval=2), *pair(), tensors(COUNT))
    cached = train_trainer(config(tmp_path, **settings), *pair(), tensors(COUNT))
    assert "teacher_logits" in cached.train_dataset.column_names
    torch.testing.assert_close(flat(cached.model), flat(online.model), rtol=1e-5, atol=1e-7)
