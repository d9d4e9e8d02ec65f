"""The command's entry: which process warns."""

import io
import logging
from types import SimpleNamespace

import pytest
from transformers.utils import logging as transformers_logging

from hf_kd_lambda import cli


@pytest.mark.parametrize(("rank", "seen"), [(None, True), ("0", True), ("1", False), ("3", False)])
def test_the_main_process_alone_warns(monkeypatch, rank, seen):
    found = []
    package = logging.getLogger("hf_kd_lambda")
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    monkeypatch.setattr(package, "handlers", [handler])
    monkeypatch.setattr(package, "level", package.level)  # which is restored
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)

    def warn(argv):
        transformers_logging.get_logger("hf_kd_lambda.jobs.some_module").warning("look out")
        transformers_logging.get_logger("hf_kd_lambda.jobs.some_module").error("it failed")

    monkeypatch.setattr(
        cli, "_imported", lambda name: SimpleNamespace(main=warn, hide_bars_of_weights=bool, use_usable_cores=bool)
    )
    cli.main(["distill"])
    package.manager._clear_cache()
    assert found == ["look out"] * seen + ["it failed"]


def test_a_log_in_ascii_takes_what_is_printed(monkeypatch):
    log = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", log)
    cli.main(["--help"])
    print("figure of λ")
    log.flush()
    assert log.buffer.getvalue().endswith(b"figure of \\u03bb\n")


@pytest.mark.parametrize("command", cli.COMMANDS)
@pytest.mark.parametrize(
    ("world_size", "expected"), [(None, ["cores", "main"]), ("1", ["cores", "main"]), ("2", ["main"])]
)
def test_each_command_in_one_process_uses_the_usable_cores(monkeypatch, command, world_size, expected):
    called = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world_size is not None:
        monkeypatch.setenv("WORLD_SIZE", world_size)
    module = SimpleNamespace(
        main=lambda argv: called.append("main"),
        use_usable_cores=lambda: called.append("cores"),
        hide_bars_of_weights=bool,
    )
    monkeypatch.setattr(cli, "_imported", lambda name: module)
    cli.main([command])
    assert called == expected


def test_predict_is_no_command_and_its_error_says_how_to_label_examples():
    with pytest.raises(SystemExit, match=r"unknown command 'predict': label new examples in Python, .*README\.md"):
        cli.main(["predict", "student", "new.csv"])
