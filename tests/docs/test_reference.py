"""Tables of the reference are complete, and name tests and configs that exist."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from hf_kd_lambda import DataArguments, DistillationConfig, ModelArguments
from hf_kd_lambda.balancing.rules import RULES
from hf_kd_lambda.losses.registry import KD_LOSSES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import docs_tables  # noqa: E402


def first_cells(table: str) -> list[str]:
    """The name in backticks with which each row begins."""
    return [re.search(r"`(\w+)`", line)[1] for line in table.splitlines()[2:]]


def test_each_rule_and_loss_has_a_row_and_a_source():
    papers = yaml.safe_load(docs_tables.PAPERS.read_text(encoding="utf-8"))
    assert papers["rules"].keys() == RULES.keys() == set(first_cells(docs_tables.rules_table()))
    assert papers["losses"].keys() == KD_LOSSES.keys() == set(first_cells(docs_tables.losses_table()))


@pytest.mark.parametrize("kind", [DistillationConfig, ModelArguments, DataArguments])
def test_each_setting_of_our_own_has_a_row(kind):
    own = {name for name in kind.__annotations__ if kind.__dataclass_fields__[name].metadata.get("help")}
    assert own
    assert set(first_cells(docs_tables.settings_table(kind))) == own


def test_cells_with_bars_stay_one_cell():
    table = docs_tables.markdown_table(("name",), [("|c|",)])
    assert table.splitlines()[2] == r"| \|c\| |"


def test_what_works_with_what_names_tests_and_configs_that_exist():
    page = (ROOT / "docs/reference/compatibility.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.endswith("| tests |")]
    tests = re.findall(r"`([\w/]+\.py)`", page)
    assert len(rows) > 20
    assert [row for row in rows if ".py` |" not in row] == []
    assert [test for test in tests if not (ROOT / "tests" / test).is_file()] == []
    assert [name for name in re.findall(r"`(configs/\w+\.yaml)`", page) if not (ROOT / name).is_file()] == []


def test_the_map_of_the_code_names_files_that_exist():
    page = (ROOT / "docs/developers/map.md").read_text(encoding="utf-8")
    package, tests = ROOT / "hf_kd_lambda", "tests/"
    paths = [path for path in re.findall(r"`([\w/]+(?:\.py|/))`", page) if not path.startswith(tests)]
    assert len(paths) > 30
    assert [path for path in paths if not (package / path).exists()] == []
    inner = [file for name in ("balancing", "trainer") for file in (package / name).glob("[!_]*.py")]
    assert [file.name for file in inner if f"{file.parent.name}/{file.name}" not in paths] == []
    named = re.findall(r"`(\w+)\.(\w+)` in `([\w/]+\.py)`", page)
    assert len(named) > 2
    for class_name, method, path in named:
        assert {f"class {class_name}", f"def {method}("} <= set(
            re.findall(r"class \w+|def \w+\(", (package / path).read_text())
        )
