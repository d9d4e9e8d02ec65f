"""Two gloo processes whose gradients are averaged, measured, rid of noise and combined, group by group."""

from pathlib import Path

from helpers.processes import run_two_ranks


def test_ranks_and_shards_measure_what_one_process_would():
    result = run_two_ranks(Path(__file__).with_name("gradient_worker.py"))
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("agrees") == 2
