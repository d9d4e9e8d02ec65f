"""What a job prints of its parts."""

import pytest
from transformers.utils import logging

from hf_kd_lambda.jobs.progress import finished_line, hide_bars_of_weights, stage


@pytest.mark.parametrize(
    ("examples", "seconds", "line"), [(0, 1.26, "1.3 s"), (1200, 2.0, "1,200 examples in 2.0 s (600/s)")]
)
def test_the_end_of_a_part_has_its_rate(examples, seconds, line):
    assert finished_line(examples, seconds) == line


def test_a_part_is_named_before_it_begins(capsys):
    with stage("reading") as reading:
        assert capsys.readouterr().out == "[reading] ...\n"
        reading.examples = 10
    assert capsys.readouterr().out.startswith("[reading] 10 examples in ")


def test_one_process_of_several_prints(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with stage("reading"):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_of_data_sets_are_shown_on_a_terminal_alone(monkeypatch, is_terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    hidden = []
    monkeypatch.setattr("datasets.disable_progress_bars", lambda: hidden.append("datasets"))
    hide_bars_of_weights()
    logging.enable_progress_bar()  # as before, for other tests
    assert hidden == ([] if is_terminal else ["datasets"])
