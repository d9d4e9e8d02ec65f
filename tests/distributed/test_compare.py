"""A comparison whose runs are made by two processes together."""

from pathlib import Path

import yaml
from helpers import small_jobs
from helpers.processes import run_two_ranks

from hf_kd_lambda.studies.comparison.run_results import read_runs

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare.py"


def test_each_run_is_made_by_both_processes_and_recorded_once(tmp_path):
    comparison = {
        "output_dir": str(tmp_path / "comparison"),
        "tasks": {"reviews": small_jobs.settings(tmp_path, **small_jobs.SET_BY_COMPARISON)},
        "rules": {"half": {"lambda_rule": "fixed", "kd_weight": 0.5}, "adaptive": {"lambda_rule": "adaptive"}},
        "seeds": [0],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(comparison, sort_keys=False))
    result = run_two_ranks(SCRIPT, str(tmp_path / "small.yaml"))
    assert result.returncode == 0, result.stderr[-4000:]
    file = tmp_path / "comparison" / "results.jsonl"
    runs = read_runs(file)
    assert len(runs) == len(file.read_text().splitlines())
    assert [run.rule for run in runs] == ["half", "adaptive"]
    for run in runs:
        assert run.error is None
        assert run.steps == 6  # of 72 examples in batches of 12, 12 on one process
        assert run.score > 0.5
    assert (tmp_path / "comparison" / "report.html").exists()
