"""Whole jobs and comparisons of two processes: sharded, with one rank that is late, and with one that fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from distributed.test_two_processes import FSDP2
from helpers import small_jobs
from helpers.processes import run_two_ranks
from transformers import AutoModelForSequenceClassification

from hf_kd_lambda.studies.comparison.plan import arguments
from hf_kd_lambda.studies.comparison.run_results import read_runs
from hf_kd_lambda.utils.run_files import QUALITY_FILE

WORKER = Path(__file__).with_name("job_worker.py")
BEST = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "score",
    "save_total_limit": 1,
}


def scores(folder: Path) -> list[float]:
    return [model["metrics"]["score"] for model in json.loads((folder / "results.json").read_text())["models"]]


def test_a_sharded_job_ends_with_whole_models(tmp_path):
    given = small_jobs.settings(tmp_path, student_without_kd=True, lambda_rule="trust", **FSDP2)
    result = run_two_ranks(WORKER, "distill", *arguments(given), JOB_WORKER="shard")
    assert result.returncode == 0, result.stderr[-4000:]
    assert len(scores(tmp_path / "out")) == 3
    assert min(scores(tmp_path / "out")) > 0.5, "a third of the reviews is of each kind"
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.config.num_hidden_layers == 2
    first = scores(tmp_path / "out")
    result = run_two_ranks(WORKER, "distill", *arguments(given), JOB_WORKER="shard")  # which only evaluates
    assert result.returncode == 0, result.stderr[-4000:]
    assert "is finished: its student is evaluated again" in result.stderr
    assert scores(tmp_path / "out") == first
    judged = pd.read_parquet(tmp_path / "out" / QUALITY_FILE)
    assert judged["row"].tolist() == list(range(72))
    assert judged["label"].tolist() == pd.read_csv(given["train_file"])["kind"].tolist()


def test_a_rank_may_be_late_to_the_best_checkpoint(tmp_path):
    result = run_two_ranks(WORKER, "distill", *arguments(small_jobs.settings(tmp_path, **BEST)), JOB_WORKER="slow")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "Could not locate the best model" not in result.stderr
    assert len(scores(tmp_path / "out")) == 2


def test_an_error_of_one_rank_ends_a_comparison_of_several(tmp_path):
    comparison = {
        "output_dir": str(tmp_path / "comparison"),
        "tasks": {"reviews": small_jobs.settings(tmp_path, **small_jobs.SET_BY_COMPARISON)},
        "rules": {"half": {"lambda_rule": "fixed", "kd_weight": 0.5}},
        "seeds": [0],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(comparison))
    result = run_two_ranks(WORKER, "compare", str(tmp_path / "small.yaml"), JOB_WORKER="fail")
    assert result.returncode != 0
    assert "out of memory" in result.stderr
    file = tmp_path / "comparison" / "results.jsonl"
    assert not file.exists() or read_runs(file) == []


def distill(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """The command of a small job, which starts two processes."""
    given = arguments(small_jobs.settings(folder))
    command = [sys.executable, "-m", "hf_kd_lambda.cli", "distill", "--num_processes", "2", *given, *settings]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_the_command_starts_its_processes(tmp_path):
    result = distill(tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["num_processes"] == 2


@pytest.mark.slow
def test_an_error_of_started_processes_is_a_message(tmp_path):
    wrong = distill(tmp_path, "--temperature", "0")
    assert wrong.returncode == 1
    assert "error: temperature=0" in wrong.stderr
    assert "Traceback" not in wrong.stderr
