"""The space that a run takes: estimated before training, named when the disk is full."""

import errno
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from helpers.small_jobs import job, settings
from helpers.small_runs import config, examples, make_trainer, models

from hf_kd_lambda import cli
from hf_kd_lambda.jobs.disk_space import (
    check_space,
    checkpoints_kept,
    disk_full_message,
    is_disk_full,
    optimizer_size,
    weights_size,
)
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.resuming import train_on
from hf_kd_lambda.jobs.run_folder import remove_checkpoints
from hf_kd_lambda.models.adapters import add_adapters
from hf_kd_lambda.studies.comparison.plan import arguments
from hf_kd_lambda.trainer.remember_predictions import PAST_PREDICTIONS

Usage = namedtuple("Usage", "total used free")
SMALL_BATCHES = {"per_device_train_batch_size": 4}  # 6 of 24 examples


@pytest.fixture
def free(monkeypatch):
    """Sets the bytes that are free on every disk."""
    return lambda size: monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(size, 0, size))


def trainer(folder, **changed):
    saved = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "optim": "adamw_torch"}
    made = make_trainer(config(folder, **{**saved, **changed}), *models(), examples(24), eval_dataset=examples(8))
    made.create_optimizer()
    return made


@pytest.mark.parametrize(("optim", "moments"), [("adamw_torch", 2), ("sgd", 0)])
def test_a_checkpoint_takes_what_was_estimated(tmp_path, optim, moments):
    made = trainer(tmp_path, optim=optim)
    student, optimizer = weights_size(made.model), optimizer_size(made.optimizer)
    assert optimizer == moments * student
    needed = check_space(tmp_path, made)
    assert needed == student + 3 * (student + optimizer)
    train_on(made)
    assert len([*tmp_path.glob("checkpoint-*")]) == checkpoints_kept(made) == 3
    assert (tmp_path / "checkpoint-4" / "model.safetensors").stat().st_size == pytest.approx(student, abs=10_000)
    states = torch.load(tmp_path / "checkpoint-4" / "optimizer.pt")["state"].values()
    tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors if tensor.dim()) == optimizer


def test_adapters_make_small_checkpoints_of_a_student_that_is_saved_whole(tmp_path):
    pytest.importorskip("peft")
    teacher, student = models()
    student = add_adapters(student, {"r": 2, "target_modules": ["query"]}, "text-classification")
    made = make_trainer(config(tmp_path, max_steps=1, save_strategy="epoch"), teacher, student, examples(8))
    made.create_optimizer()
    adapters = weights_size(made.model)
    whole = check_space(tmp_path, made) - adapters - optimizer_size(made.optimizer)
    train_on(made)
    made.save_model()
    sizes = [
        (tmp_path / name).stat().st_size for name in ("model.safetensors", "checkpoint-1/adapter_model.safetensors")
    ]
    assert sizes == pytest.approx([whole, adapters], abs=10_000)
    assert whole > 5 * adapters


@pytest.mark.parametrize("is_cached", [False, True])
def test_predictions_are_a_part_of_a_checkpoint(tmp_path, is_cached):
    cache = {"cache_teacher": is_cached, "teacher_cache_dir": str(tmp_path / "cache")}
    made = trainer(tmp_path, lambda_rule="trust", **cache)
    student, optimizer = weights_size(made.model), optimizer_size(made.optimizer)
    predictions = 24 * (3 + 1) * 4 if is_cached else 0
    assert check_space(tmp_path, made) == student + 3 * (student + optimizer + predictions)
    made.train()
    written = sum(file.stat().st_size for file in tmp_path.glob(f"checkpoint-4/{PAST_PREDICTIONS}"))
    assert predictions <= written <= predictions + 200, "but for the header"


def test_with_momentum_an_optimizer_has_one_moment():
    layer = torch.nn.Linear(3, 4)
    assert optimizer_size(torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)) == 16 * 4


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"save_strategy": "no"}, 0),
        ({"save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2.5}, 3),
        ({"save_strategy": "epoch", "max_steps": 20, "num_train_epochs": 1}, 7),
        ({"save_strategy": "epoch", "max_steps": 2, "num_train_epochs": 3}, 1),
        ({"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "kd_loss"}, 5),
        ({"save_steps": 0.25, "max_steps": 8}, 4),
        ({"max_steps": -1, "num_train_epochs": 4, **SMALL_BATCHES}, 12),
        (
            {
                "max_steps": -1,
                "num_train_epochs": 3,
                "save_steps": 1,
                **SMALL_BATCHES,
                "gradient_accumulation_steps": 4,
            },
            6,
        ),
        ({"save_total_limit": 1}, 2),
        ({"save_total_limit": 9}, 3),
    ],
)
def test_checkpoints_that_lie_there_at_once(tmp_path, changed, kept):
    assert checkpoints_kept(trainer(tmp_path, **changed)) == kept


def test_a_disk_without_room_is_refused_or_warned_of_before_training(tmp_path, free, caplog):
    made = trainer(tmp_path)
    student = weights_size(made.model)
    free(3 * student)
    refused = rf"output_dir='{tmp_path}' has .* MB free, and the student takes about .* MB, a checkpoint about .* MB"
    with pytest.raises(ValueError, match=refused):
        check_space(tmp_path, made)
    free(5 * student)
    check_space(tmp_path, made)
    assert "3 checkpoints of about" in caplog.text
    caplog.clear()
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "model.safetensors").write_bytes(bytes(5 * student))  # of an earlier start
    check_space(tmp_path, made)
    assert not caplog.text


def test_a_job_is_refused_where_its_student_does_not_fit(tmp_path, free):
    checked = job(settings(tmp_path))
    free(1000)
    with pytest.raises(ValueError, match="free some space, or choose another output_dir"):
        checked.check()


def test_a_finished_job_needs_no_space_for_checkpoints(tmp_path, free):
    given = settings(tmp_path, save_strategy="epoch", num_train_epochs=1)
    job(given).run()
    remove_checkpoints(tmp_path / "out")
    free(1000)
    job(given).check()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 192 vs 86"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_names_folder_space_and_the_command_that_resumes(tmp_path, monkeypatch, error):
    def fill(job: DistillationJob) -> None:
        job.folder.mkdir(parents=True)
        job.space = 2_000_000
        raise RuntimeError("while saving") from error

    monkeypatch.setattr(DistillationJob, "check", lambda job: None)
    monkeypatch.setattr(DistillationJob, "run", fill)
    given = arguments(settings(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["distill", *given])
    assert f"no space left to write to {tmp_path / 'out'}: " in stop.value.code
    assert "the run takes about 2.0 MB in all" in stop.value.code
    assert "this resumes the run: hf-kd-lambda distill --teacher" in stop.value.code
    assert not is_disk_full(ValueError("another"))


def test_a_full_disk_of_the_cache_is_named(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr("hf_kd_lambda.jobs.distill.HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(9, 0, 0 if Path(path) == cache else 500_000_000))

    def fill(job: DistillationJob) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DistillationJob, "check", fill)
    with pytest.raises(SystemExit) as stop:
        cli.main(["distill", *arguments(settings(tmp_path))])
    assert f"no space left to write to {cache}: 0.0 MB are free" in stop.value.code


def test_the_folder_on_the_fullest_disk_is_named(tmp_path, monkeypatch):
    spaces = {tmp_path / "out": 500, tmp_path / "teacher": 3, tmp_path: 400}
    for folder in (tmp_path / "out", tmp_path / "teacher"):
        folder.mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(9, 0, spaces[Path(path)]))
    folders = [tmp_path / "none", tmp_path / "out", tmp_path / "teacher"]
    message = disk_full_message(folders, None, "rerun")
    assert message.startswith(f"no space left to write to {tmp_path / 'teacher'}: 0.0 MB are free. Free some")
    # The disk was too full to make the folder itself.
    message = disk_full_message(folders[:2], None, "rerun")
    assert message.startswith(f"no space left to write to {tmp_path / 'none'}: 0.0 MB are free. Free some")
