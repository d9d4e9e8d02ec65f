"""Runs as a comparison writes them and reads them again."""

import dataclasses
import json

import pytest

from hf_kd_lambda.studies.comparison.run_results import Run, append_run, finished, is_fixed, read_runs

RUN = Run(
    task="films",
    regime="clean",
    rule="half",
    seed=0,
    rule_parameters={"lambda_rule": "fixed", "kd_weight": 0.5},
    settings={"learning_rate": 1e-4},
    versions={"torch": "2"},
    commit="abc",
    hardware="a CPU",
    score=0.9,
    evaluations=[{"step": 1, "seconds": 0.1, "score": 0.9, "agreement": 1.0}],
)


def test_what_is_written_is_read_again(tmp_path):
    other = dataclasses.replace(RUN, seed=1, rule="λ", error="a\u2028line")
    for run in (RUN, other):
        append_run(tmp_path / "new" / "results.jsonl", run)
    assert read_runs(tmp_path / "new" / "results.jsonl") == [RUN, other]
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["results.jsonl"]


def test_a_file_whose_last_line_an_editor_left_open_goes_on(tmp_path):
    file = tmp_path / "results.jsonl"
    append_run(file, RUN)
    file.write_bytes(file.read_bytes().rstrip())
    append_run(file, dataclasses.replace(RUN, seed=1))
    assert [run.seed for run in read_runs(file)] == [0, 1]


def test_a_process_that_dies_while_it_writes_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "results.jsonl"
    append_run(file, RUN)
    before = file.read_bytes()

    def die(*args):
        raise SystemExit

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(SystemExit):
        append_run(file, dataclasses.replace(RUN, seed=1))
    assert file.read_bytes() == before


def test_a_line_says_by_itself_what_was_run(tmp_path):
    append_run(tmp_path / "results.jsonl", RUN)
    line = json.loads((tmp_path / "results.jsonl").read_text())
    names = {"task", "regime", "rule", "rule_parameters", "seed", "score", "steps", "seconds", "agreement"}
    assert names | {"settings", "versions", "commit", "hardware"} <= line.keys()


def test_of_a_run_made_twice_the_last_counts(tmp_path):
    failed = dataclasses.replace(RUN, score=None, error="RuntimeError: out of memory")
    for run in (failed, RUN):
        append_run(tmp_path / "results.jsonl", run)
    assert read_runs(tmp_path / "results.jsonl") == [RUN]


def test_no_file_holds_no_runs(tmp_path):
    assert read_runs(tmp_path / "results.jsonl") == []


def test_a_failed_run_is_not_finished():
    failed = dataclasses.replace(RUN, error="it broke")
    assert finished([RUN, failed]) == [RUN]


def test_the_sweep_is_of_fixed_weights():
    assert is_fixed(RUN)
    assert not is_fixed(dataclasses.replace(RUN, rule_parameters={"lambda_rule": "adaptive"}))


@pytest.mark.parametrize("line", ['{"task": "films"', '{"task": "films"}', "[]"])
def test_a_line_that_is_no_run_is_named(tmp_path, line):
    append_run(tmp_path / "results.jsonl", RUN)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*results.jsonl is not a run"):
        read_runs(tmp_path / "results.jsonl")
