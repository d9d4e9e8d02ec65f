"""Checkpoints that are whole, and folders that belong to a run."""

import json
from pathlib import Path

import pytest
from transformers.trainer_callback import TrainerState

from hf_kd_lambda.jobs.run_folder import RECORD_FILE, claim_folder, last_checkpoint, record_run, remove_checkpoints

SETTINGS = {"temperature": 2.0, "student_layers": [0, 3], "task": None, "betas": (0.9, 0.99)}


def make_checkpoint(folder: Path, step: int) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    TrainerState(global_step=step).save_to_json(str(checkpoint / "trainer_state.json"))
    return checkpoint


def test_last_checkpoint_is_that_of_the_highest_step(tmp_path):
    for step in (9, 100, 20):
        make_checkpoint(tmp_path, step)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


@pytest.mark.parametrize("corrupt", ["missing", "empty", "truncated"])
def test_last_checkpoint_passes_over_a_corrupt_one(tmp_path, corrupt):
    make_checkpoint(tmp_path, 10)
    state = make_checkpoint(tmp_path, 20) / "trainer_state.json"
    text = state.read_text()
    state.unlink()
    if corrupt != "missing":
        state.write_text("" if corrupt == "empty" else text[: len(text) // 2])
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_last_checkpoint_is_none_where_there_is_none(tmp_path):
    assert last_checkpoint(tmp_path / "missing") is None
    (tmp_path / "checkpoint-10").mkdir()
    make_checkpoint(tmp_path, 20).rename(tmp_path / "checkpoint-best")
    assert last_checkpoint(tmp_path) is None


def test_remove_checkpoints_leaves_everything_else(tmp_path):
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 20).rename(tmp_path / "checkpoint-best")
    (tmp_path / "config.json").touch()
    remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-best", "config.json"]


def test_record_is_written_in_one_step(tmp_path):
    for finished in (False, True):
        record_run(tmp_path, SETTINGS, finished)
        assert [path.name for path in tmp_path.iterdir()] == [RECORD_FILE]
        assert json.loads((tmp_path / RECORD_FILE).read_text())["finished"] is finished


def test_a_record_cut_short_leaves_the_earlier_one(tmp_path):
    record_run(tmp_path, SETTINGS, finished=True)
    with pytest.raises(TypeError):
        record_run(tmp_path, {"temperature": object()}, finished=False)
    assert json.loads((tmp_path / RECORD_FILE).read_text())["finished"]


def test_a_fresh_folder_is_made_and_claimed(tmp_path):
    folder = tmp_path / "runs" / "first"
    assert not claim_folder("output_dir", folder, SETTINGS)
    assert list(folder.iterdir()) == []


def test_files_that_no_run_has_written_are_not_replaced(tmp_path):
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(ValueError, match=r"output_dir='.*' holds README.md, which the run would replace"):
        claim_folder("output_dir", tmp_path, SETTINGS, writes=("README.md", "results.json"))
    record_run(tmp_path, SETTINGS, finished=False)
    assert not claim_folder("output_dir", tmp_path, SETTINGS, writes=("README.md", "results.json"))


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_with_the_same_settings_may_go_on(tmp_path, finished):
    make_checkpoint(tmp_path, 10)
    record_run(tmp_path, SETTINGS, finished)
    assert claim_folder("output_dir", tmp_path, SETTINGS) is finished


def test_what_was_never_trained_does_not_hold_a_folder(tmp_path):
    record_run(tmp_path, SETTINGS, finished=False)
    assert not claim_folder("output_dir", tmp_path, SETTINGS | {"temperature": 3.0})


@pytest.mark.parametrize("content", ["checkpoint", "model"])
def test_another_run_is_refused_by_the_names_of_its_settings(tmp_path, content):
    make_checkpoint(tmp_path, 10) if content == "checkpoint" else (tmp_path / "config.json").touch()
    record_run(tmp_path, SETTINGS, finished=False)
    others = {**SETTINGS, "temperature": 3.0, "max_length": 64}
    del others["student_layers"]
    with pytest.raises(ValueError, match="differs in max_length, student_layers, temperature: choose another"):
        claim_folder("teacher_dir", tmp_path, others)


@pytest.mark.parametrize("record", [None, "", "{}", "[]", '{"finished": tr', '{"finished": true, "settings": []}'])
def test_a_model_of_unknown_origin_is_refused(tmp_path, record):
    (tmp_path / "config.json").touch()
    if record is not None:
        (tmp_path / RECORD_FILE).write_text(record)
    with pytest.raises(ValueError, match=r"output_dir='.*' holds a model of unknown origin"):
        claim_folder("output_dir", tmp_path, SETTINGS)


@pytest.mark.parametrize("below", ["", "below"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"output_dir='.*' cannot be written .*: choose another"):
        claim_folder("output_dir", file / below, SETTINGS)
