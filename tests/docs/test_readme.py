import dataclasses
import json
import re
import sys
from pathlib import Path

from helpers.compared_runs import made_up_run

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import fill_tables  # noqa: E402
import result_tables  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_readme_is_one_page():
    assert len(README.encode()) <= 9 * 1024


def test_files_that_readme_links_exist():
    local = [link.split("#")[0] for link in LINK.findall(README) if not link.startswith("http")]
    assert len(local) > 10
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_tables_are_up_to_date():
    files = fill_tables.marked_files()
    assert ROOT / "README.md" in files
    assert len(files) > 1
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert fill_tables.with_tables(text) == text, f"{file.name}: run: python scripts/fill_tables.py"


def test_a_stale_table_is_found():
    row = next(line for line in README.splitlines() if line.startswith("| nothing |"))
    stale = README.replace(row, row.replace("8", "9"))
    assert stale != README
    assert fill_tables.with_tables(stale) == README


def test_the_base_table_of_partial_results_names_what_is_missing(monkeypatch):
    rules = {"trust": [0.8], "no KD": [0.7, 0.72], "fixed 0.5": [0.6]}
    runs = [
        made_up_run(rule, seed, score, task="mrpc_3", regime="clean", seconds=120.0)
        for rule, scores in rules.items()
        for seed, score in enumerate(scores)
    ]
    monkeypatch.setattr(result_tables, "_runs", lambda comparison: runs)
    _, _, teacher, student, empty, missing = result_tables.base_table().splitlines()
    assert teacher == "| MRPC | the teacher itself | 90.00 | 90.00 | 90.00 | 90.00 | 100 % |  |  |"
    assert student == "| MRPC | 3 of its layers | 71.00 | 60.00 | – | 80.00 | 88.9 % | 2.0 | 0 to 2 |"
    assert empty == ""
    assert missing.startswith("Not run yet: SST-2 MiniLM, 6 layers; SST-2 3 of its layers;")
    assert "MRPC 3 of its layers (fixed 0.9)" in missing


def test_the_table_of_two_machines_compares_runs_of_the_same_seed(monkeypatch):
    first = [
        *(("fixed 0.5", seed, 0.8) for seed in range(3)),
        *(("trust", seed, 0.84 + seed / 100) for seed in range(2)),
    ]
    comparisons = {
        "compare_trust": [made_up_run(*cell, task="sst2", regime="both") for cell in first],
        "trust_control": [made_up_run("fixed 0.5", 1, 0.81, task="sst2", regime="both")],
    }
    monkeypatch.setattr(result_tables, "_runs", comparisons.__getitem__)
    *_, row, empty, means = result_tables.control_table().splitlines()
    wrong = "30 % of the labels, and the teacher on a different 30 %"
    assert row == f"| {wrong} | fixed 0.5 | 80.00 (1) | 81.00 (1) | 85.00 (1) |"
    assert empty == ""
    assert means.endswith("the weights on AMD minus those on Intel +1.00; `trust` minus the weights on AMD +4.00.")


def test_the_table_of_machines_names_all_that_made_runs_of_a_seed(monkeypatch):
    made_on = {
        ("low", 0): "Intel Xeon, amx_bf16, 1 thread",
        ("high", 0): "Intel Xeon 2.80GHz, 1 thread",
        ("low", 1): "AMD EPYC, 1 thread",
        ("trust", 1): "Intel Xeon 2.80GHz, 1 thread",
    }
    runs = [
        dataclasses.replace(made_up_run(*cell, 0.8, task="sst2", regime="both"), hardware=hardware)
        for cell, hardware in made_on.items()
    ]
    monkeypatch.setattr(result_tables, "_runs", lambda comparison: runs)
    *_, row = result_tables.machines_table().splitlines()
    assert row.endswith(" | A/C, B | C |")


def test_the_summary_of_the_base_model_has_scores_without_kd_and_with_trust(monkeypatch):
    runs = [
        made_up_run(rule, 0, score, task="mrpc_3", regime="clean")
        for rule, score in {"no KD": 0.7, "trust": 0.8}.items()
    ]
    form = {"parameters": 2e6, "batch_latency_ms": 20.0}
    models = {name: {"forms": {"fp32": form}} for name in ("6", "3", "minilm")}
    models["teacher"] = {"forms": {"fp32": {"parameters": 4e6, "batch_latency_ms": 80.0}}}
    monkeypatch.setattr(result_tables, "_runs", lambda comparison: runs)
    monkeypatch.setattr(result_tables, "_base_models", lambda: models)
    head, _, teacher, without_runs, student, _ = result_tables.base_summary_table().splitlines()
    assert head == "| model | parameters | time | MRPC |"
    assert teacher == "| teacher, 12 layers | 4 M | 1.00 | 90.0 |"
    assert without_runs == "| 6 of its layers | 2 M | 0.25 | – |"
    assert student == "| 3 of its layers | 2 M | 0.25 | 70.0 → 80.0 (89 %) |"


def test_the_forms_table_has_sizes_and_times_relative_to_the_teacher(monkeypatch, tmp_path):
    form = {"parameters": 2e6, "megabytes": 8.0, "latency_ms": 1.0, "batch_latency_ms": 20.0}
    forms = dict.fromkeys(result_tables.BASE_FORMS, form) | {"ONNX int8": {**form, "megabytes": 2.0}}
    models = {name: {"step_cpu_seconds": 1.0, "forms": forms} for name in ("6", "3", "minilm")}
    slow = {name: {**form, "batch_latency_ms": 40.0} for name in result_tables.BASE_FORMS}
    models["teacher"] = {"step_cpu_seconds": 3.0, "forms": slow}
    folder = tmp_path / "benchmarks" / "base"
    folder.mkdir(parents=True)
    (folder / "forms.json").write_text(json.dumps({"models": models}))
    monkeypatch.setattr(result_tables, "ROOT", tmp_path)
    rows = result_tables.base_forms_table().splitlines()[2:]
    assert rows[0] == "| teacher, 12 layers | 2.0 | 8 | 8 | 1.00 | 1.00 | 1.00 | 1.00 |  |"
    assert rows[1] == "| 6 of its layers | 2.0 | 8 | 2 | 0.50 | 0.50 | 0.50 | 0.50 | 0.25 |"
