"""The command `distill`, without a job; test_fuzz.py and tests/distributed/ run whole commands."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import accelerate.commands.launch
import pytest

from hf_kd_lambda.jobs import distill


@pytest.mark.parametrize("use_cpu", [True, False])
def test_the_device_that_trains_is_named(monkeypatch, use_cpu):
    warnings: list[str] = []
    config = SimpleNamespace(world_size=1, use_cpu=use_cpu, autocast="bf16", output_dir="out")
    monkeypatch.setattr(distill, "parse", lambda argv: (None, None, config))
    monkeypatch.setattr(distill, "hardware", lambda use_cpu: f"the {'CPU' if use_cpu else 'GPU'}")
    monkeypatch.setattr(distill, "DistillationJob", MagicMock())
    monkeypatch.setattr(distill.logger, "warning", warnings.append)
    distill.main([])
    assert warnings == [f"training in bf16 on the {'CPU' if use_cpu else 'GPU'}, output_dir: out"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.yaml --seed 1", (1, ["a.yaml", "--seed", "1"])),
        ("a.yaml --num_processes 2 --seed 1", (2, ["a.yaml", "--seed", "1"])),
        ("--num_processes=2 a.yaml", (2, ["a.yaml"])),
        ("a.yaml --num-processes 3", (3, ["a.yaml"])),
    ],
)
def test_the_number_of_processes_is_no_setting_of_the_job(line, expected):
    assert distill.split_num_processes(line.split()) == expected


@pytest.mark.parametrize("words", [["--num_processes=0"], ["--num-processes", "x"], ["--num_processes"]])
def test_a_wrong_number_of_processes_is_refused(words):
    with pytest.raises(ValueError, match=r"num_processes='.?' must be an integer of at least 1"):
        distill.split_num_processes(["a.yaml", *words])


def test_the_command_starts_its_processes_by_accelerate(monkeypatch):
    started = []
    monkeypatch.setattr(accelerate.commands.launch, "launch_command", started.append)
    monkeypatch.setattr(distill, "DistillationJob", None)  # this process makes no job
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    distill.main(["a.yaml", "--num_processes", "2", "--seed", "1"])
    (given,) = started
    assert (given.num_processes, given.multi_gpu, given.module) == (2, True, True)
    command = [given.training_script, *given.training_script_args]
    assert command == ["hf_kd_lambda.cli", "distill", "a.yaml", "--seed", "1"]

    monkeypatch.setattr("sys.argv", ["hf-kd-lambda", "distill", "a.yaml", "--num_processes", "2", "--traceback"])
    distill.launch(2, ["a.yaml"])
    assert started[1].training_script_args == ["distill", "a.yaml", "--traceback"]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match="num_processes=3: this machine has 2 GPUs: lower it"):
        distill.launch(3, ["a.yaml"])
