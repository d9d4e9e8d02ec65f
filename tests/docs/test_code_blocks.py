"""Every Python block of README.md and docs/ runs, and so does the notebook; commands and YAML name real settings."""

import copy
import dataclasses
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from helpers.guide_files import write_guide_files
from nbclient import NotebookClient

from hf_kd_lambda import DataArguments, DistillationConfig, ModelArguments, cli
from hf_kd_lambda.balancing.rules import RULES
from hf_kd_lambda.data.arguments import EvaluatedData
from hf_kd_lambda.losses.registry import KD_LOSSES
from hf_kd_lambda.tasks import TASKS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDS_HUB = "# needs the Hub"
SETTINGS = {f.name for kind in (DistillationConfig, ModelArguments, DataArguments) for f in dataclasses.fields(kind)}
DATA = {f.name for f in dataclasses.fields(EvaluatedData)}
NOT_IN_HELP = {"distill": SETTINGS | {"num_processes"}, "probe": SETTINGS, "evaluate": DATA, "export": DATA}
NOTEBOOK = nbformat.read(ROOT / "docs" / "own_csv.ipynb", as_version=4)


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page's fences of one language, in their order."""
    return [code for name, code in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def python_of(page: Path) -> str:
    """All Python blocks of a page as one script, without those that need the Hub."""
    return "\n\n".join(block for block in blocks(page, "python") if not block.startswith(NEEDS_HUB))


def commands(page: Path) -> list[tuple[str, str]]:
    """The sub-commands in a page's bash blocks, with the rests of their lines."""
    code = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return re.findall(r"hf-kd-lambda (\w+)(.*)", code.replace("scripts/distill.py", "hf-kd-lambda distill"))


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


def test_the_cells_of_the_notebook_compile():
    cells = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    compile("\n".join(cells).replace("%%capture", ""), "own_csv.ipynb", "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebook = copy.deepcopy(NOTEBOOK)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("λ went from" in output.get("text", "") for output in outputs)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_commands_name_real_settings_and_files(page, capsys):
    for command, rest in commands(page):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        known = set(re.findall(r"--(\w+)", capsys.readouterr().out)) | NOT_IN_HELP.get(command, set())
        assert set(re.findall(r"--(\w+)", rest)) <= known, (command, rest)
        assert all((ROOT / config).is_file() for config in re.findall(r"configs/\w+\.yaml", rest)), (command, rest)


def test_commands_are_found_in_the_pages():
    found = [command for page in PAGES for command, _ in commands(page)]
    assert len(found) > 30
    assert set(found) == set(cli.COMMANDS)


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
