"""Damaged checkpoints: a run ends with the same weights as without the damage."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from helpers.small_runs import config, examples, flat, make_trainer, models

from hf_kd_lambda.jobs.manifest import MANIFEST, damage, write_manifest
from hf_kd_lambda.jobs.resuming import train_on
from hf_kd_lambda.jobs.run_folder import claim_folder, last_checkpoint, record_run


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroes": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "bit": flip_a_bit,
    "deleted": Path.unlink,
    "appended": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
}


def train(folder: Path, **settings) -> torch.Tensor:
    """The weights at the end of five steps of AdamW, with a checkpoint every two."""
    saved = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "optim": "adamw_torch", "learning_rate": 1e-3}
    given = config(folder, **{**saved, "per_device_train_batch_size": 4, **settings})
    data = examples(24)
    trainer = make_trainer(given, *models(), data, eval_dataset=data.select(range(4)))
    train_on(trainer)
    return flat(trainer.model)


@pytest.mark.parametrize("steps", [4, 6])  # of an epoch of six
def test_a_finished_run_that_is_repeated_takes_no_further_step(tmp_path, steps):
    weights = train(tmp_path, max_steps=steps)
    assert torch.equal(train(tmp_path, max_steps=steps), weights)
    assert sorted(folder.name for folder in tmp_path.glob("checkpoint-*"))[-1] == f"checkpoint-{steps}"


def test_a_folder_that_was_moved_ends_with_its_best_checkpoint(tmp_path):
    evaluated = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
    best = train(tmp_path / "here", **evaluated)
    state = json.loads((tmp_path / "here" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 2, "else the last checkpoint is the best"
    (tmp_path / "here").rename(tmp_path / "there")
    assert torch.equal(train(tmp_path / "there", **evaluated), best)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with checkpoints at steps 2, 4 and 5, and its weights at the end."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder)


@pytest.fixture
def copied(trained, tmp_path):
    """Makes a copy of that folder, without the checkpoint of the last step."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(trained[0], folder)
        shutil.rmtree(folder / "checkpoint-5", ignore_errors=True)
        return folder

    return copy


def test_every_checkpoint_has_a_manifest_of_its_files(trained):
    for step in (2, 4):
        checkpoint = trained[0] / f"checkpoint-{step}"
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
        assert files.keys() >= {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"}
        assert files.keys() == {path.name for path in checkpoint.iterdir()} - {MANIFEST}
        assert damage(checkpoint) is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_run_with_a_damaged_checkpoint_ends_with_the_same_weights(trained, copied, kind):
    names = sorted(path.name for path in (trained[0] / "checkpoint-4").iterdir())
    assert len(names) > 6
    for name in names:
        folder = copied(name)
        DAMAGES[kind](folder / "checkpoint-4" / name)
        assert last_checkpoint(folder) == folder / "checkpoint-2", name
        if name == "model.safetensors":  # the others lead to the same checkpoint
            assert torch.equal(train(folder), trained[1])
        shutil.rmtree(folder)


def test_a_damaged_checkpoint_is_named_in_the_log(copied, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("hf_kd_lambda"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    folder = copied("run")
    flip_a_bit(folder / "checkpoint-4" / "optimizer.pt")
    last_checkpoint(folder)
    assert "checkpoint-4 is damaged and is left out: the content of optimizer.pt has changed." in caplog.text


def test_without_any_complete_checkpoint_a_run_begins_again(trained, copied):
    folder = copied("run")
    for step in (2, 4):
        flip_a_bit(folder / f"checkpoint-{step}" / "model.safetensors")
    assert last_checkpoint(folder) is None
    assert torch.equal(train(folder), trained[1])


def test_checkpoints_of_an_earlier_version_have_no_manifest_and_are_resumed(trained, copied):
    folder = copied("run")
    for step in (2, 4):
        (folder / f"checkpoint-{step}" / MANIFEST).unlink()
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    assert torch.equal(train(folder), trained[1])


@pytest.mark.parametrize("kind", ["bit", "removed"])
def test_a_damaged_best_checkpoint_is_not_what_training_ends_with(tmp_path, kind):
    best = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    best |= {"metric_for_best_model": "task_loss", "greater_is_better": False}
    folder = tmp_path / "run"
    expected = train(folder, **best)
    assert json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())["best_global_step"] == 2
    shutil.rmtree(folder / "checkpoint-5", ignore_errors=True)
    if kind == "bit":
        flip_a_bit(folder / "checkpoint-2" / "model.safetensors")
    else:
        shutil.rmtree(folder / "checkpoint-2")
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    assert last_checkpoint(folder, with_best=True) is None
    assert torch.equal(train(folder, **best), expected)


def test_hidden_files_and_folders_inside_are_no_part_of_a_manifest(tmp_path):
    for name in ("model.safetensors", ".lock", "checkpoint-3/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    write_manifest(tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text())["files"].keys() == {"model.safetensors"}


def test_a_student_in_the_folder_of_its_teacher_does_not_damage_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    record_run(tmp_path / "student", {}, finished=False)
    record_run(tmp_path, {}, finished=True)
    write_manifest(tmp_path)
    record_run(tmp_path / "student", {}, finished=True)
    assert claim_folder("teacher_dir", tmp_path, {})
    flip_a_bit(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"is damaged: the content of config\.json has changed"):
        claim_folder("teacher_dir", tmp_path, {})


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}}', '{"files": {"a": 1}}', "\0"])
def test_an_unreadable_manifest_is_damage(tmp_path, content):
    (tmp_path / "a").write_text("x")
    (tmp_path / MANIFEST).write_text(content)
    assert MANIFEST in damage(tmp_path)
