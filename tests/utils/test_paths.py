"""A leading `~/` is the home folder, wherever a path is given."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from helpers.small_jobs import job, settings

from hf_kd_lambda import cli
from hf_kd_lambda.jobs.command_line import split_list
from hf_kd_lambda.jobs.yaml_file import YamlFile
from hf_kd_lambda.utils.paths import check_model_folder, check_path, expand_home, write_at_once


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("word", ["~/a/b", "--output_dir=~/a/b", "--glue=~/a/b"])
def test_a_path_alone_or_in_a_setting_is_expanded(home, word):
    assert expand_home(word) == word.replace("~", str(home))


def test_each_path_of_a_list_is_expanded(home):
    assert split_list("[~/a, ~/b, c]") == [f"{home}/a", f"{home}/b", "c"]


@pytest.mark.parametrize("word", ["~", "~x", "a~/b", "--delimiter=~", "a=~/b", "--~/a"])
def test_nothing_else_is_expanded(word):
    assert expand_home(word) == word


@pytest.mark.parametrize(
    ("name", "refused"), [("./no", True), ("a/b/c", True), ("/no", True), ("a/b", False), ("a", False)]
)
def test_a_path_without_a_folder_is_refused_and_an_id_of_the_hub_is_not(name, refused):
    expected = pytest.raises(OSError, match=f"teacher='{name}': there is no such folder") if refused else nullcontext()
    with expected:
        check_model_folder("teacher", name)


def test_a_misspelt_folder_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "runs" / "tickets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    check_model_folder("model", "runs/tickets")
    check_model_folder("model", "runs/bert-base-uncased")  # of a namespace that is named like a folder
    with pytest.raises(OSError, match=r"model='runs/ticket': there is no such folder\. Did you mean 'runs/tickets'"):
        check_model_folder("model", "runs/ticket")


def test_values_of_a_settings_file_are_expanded_at_every_depth(home):
    file = home / "settings.yaml"
    file.write_text(
        "output_dir: ~/out\ntasks:\n  one: {train_file: ~/a.csv, delimiter: '~'}\nteacher: ~\n"
        "teacher_weights: {~/b: 2}\n"
    )
    parts = YamlFile(file)
    assert {name: parts.value(node) for name, node in parts.items} == {
        "output_dir": f"{home}/out",
        "tasks": {"one": {"train_file": f"{home}/a.csv", "delimiter": "~"}},
        "teacher": None,
        "teacher_weights": {f"{home}/b": 2},
    }


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["distill", "~/no.yaml"], "no.yaml"),
        (["distill", "--teacher=~/no", "--student=x", "--train_file=~/no.csv", "--output_dir=o"], "no.csv"),
        (["compare", "~/no.yaml"], "no.yaml"),
        (["push", "~/no", "me/model"], "no"),
        (["evaluate", "~/model", "--train_file", "~/no.csv"], "model"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_reads_the_home_folder(home, monkeypatch, command, named):
    monkeypatch.chdir(home)
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert str(home / named) in str(stop.value.code), json.dumps(command)
    assert not Path("~").exists()


@pytest.mark.parametrize("path", ["", "a\0b", "a\udcffb"])
def test_what_cannot_be_a_path_is_refused_by_its_setting(path):
    with pytest.raises(ValueError, match=r"output_dir='.*' is empty or has a character"):
        check_path("output_dir", path)
    for fine in (None, "a b", "\u4f60/\u00e9"):
        check_path("output_dir", fine)


@pytest.mark.parametrize("setting", ["output_dir", "teacher_dir", "teacher_cache_dir"])
def test_a_job_refuses_what_cannot_be_a_path_before_anything_is_read(tmp_path, setting):
    with pytest.raises(ValueError, match=f"{setting}='.*has a character"):
        job(settings(tmp_path, **{setting: "a\0b"}))


def test_an_interrupted_write_leaves_the_old_text(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    write_at_once(file, "old λ")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_at_once(file, "new λ")
    assert file.read_text(encoding="utf-8") == "old λ"
    write_at_once(file, "new λ")
    assert file.read_text(encoding="utf-8") == "new λ"
