"""Every Python block of README.md and docs/ runs, and so does the notebook; commands and YAML name real settings."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from helpers.guide_files import write_guide_files
from nbclient import NotebookClient

from hf_kd_lambda import DataArguments, DistillationConfig, ModelArguments
from hf_kd_lambda.balancing.rules import RULES
from hf_kd_lambda.losses.registry import KD_LOSSES
from hf_kd_lambda.tasks import TASKS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDS_HUB = "# needs the Hub"
SETTINGS = {f.name for kind in (DistillationConfig, ModelArguments, DataArguments) for f in dataclasses.fields(kind)}


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page's fences of one language, in their order."""
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def python_of(page: Path) -> str:
    """All Python blocks of a page as one script, without those that need the Hub."""
    return "\n\n".join(block for block in blocks(page, "python") if not block.startswith(NEEDS_HUB))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def _registries():
    """Take out afterwards what a page adds to the registries."""
    before = [(registry, dict(registry)) for registry in (RULES, KD_LOSSES, TASKS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.mark.usefixtures("_registries")
@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=name_of)
def test_python_blocks_of_a_page_run_in_their_order(page, tmp_path, monkeypatch):
    write_guide_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(python_of(page), str(page), "exec"), {"__name__": "__main__"})


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = nbformat.read(ROOT / "docs" / "own_csv.ipynb", as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("λ went from" in output.get("text", "") for output in outputs)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_real_settings_and_files(page):
    commands = [
        command
        for block in blocks(page, "bash")
        for command in block.replace("\\\n", " ").splitlines()
        if re.search(r"hf-kd-lambda distill|scripts/distill\.py", command)
    ]
    for command in commands:
        settings = command.split("distill", 1)[1]
        assert set(re.findall(r"--(\w+)", settings)) <= SETTINGS | {"num_processes"}, command
        assert all((ROOT / config).is_file() for config in re.findall(r"configs/\w+\.yaml", settings)), command


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=name_of)
def test_yaml_blocks_name_real_settings(page):
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block).keys() <= SETTINGS, block


def test_commands_of_benchmarks_name_modules():
    texts = [*PAGES, *(ROOT / "configs").glob("*.yaml"), *(ROOT / "benchmarks").rglob("*.py")]
    found = "\n".join(path.read_text(encoding="utf-8") for path in texts)
    modules = set(re.findall(r"python -m (benchmarks[\w.]*)", found))
    assert len(modules) > 10
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
    assert "python benchmarks/" not in found, "these modules import each other"
