"""The tables of time and memory, generated from the records in benchmarks/. `fill_tables.py` writes them."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docs_tables import markdown_table

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(ROOT))  # benchmarks is not installed

from benchmarks import cache, end_to_end, grid, rule_cost, step_profile  # noqa: E402

STEPS = {
    "online_fixed_s": ("ordinary step, teacher online", ""),
    "online_measuring_s": ("measuring step, teacher online", ""),
    "cached_fixed_s": ("ordinary step, cached", ""),
    "cached_measuring_s": ("measuring step, cached", ""),
    "measuring_step_ratio": ("measuring / ordinary, online", "≤ 1.41"),
    "mean_step_ratio": ("mean step at K = 8 / ordinary, online", "≤ 1.08"),
    "cached_step_ratio": ("mean step at K = 8, cached / ordinary, online", "≤ 0.75"),
    "extra_memory_mb": ("extra memory of a measuring step", "≤ 70 + 32 MB"),
}
"""Title and target of the figures of a steps_*.json."""


def steps_table() -> str:
    """Times, ratios and memory of the four kinds of steps, a column for each machine and precision."""
    records = [_record(file) for file in sorted((BENCHMARKS / "results").glob("steps_*.json"), reverse=True)]
    head = ["", "target", *(f"{record['precision']}, {record['hardware']}" for record in records)]
    rows = [[*STEPS[name], *(_step_cell(record, name) for record in records)] for name in STEPS]
    return markdown_table(head, rows)


def _step_cell(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if name.endswith("_s"):
        return f"{1000 * value:.0f} ms"
    if name.endswith("_mb"):
        return f"{value:.1f} MB"
    low, high = record.get(f"{name}_range", (None, None))
    return f"{value:.3f}" if low is None else f"{value:.3f} ({low:.2f}–{high:.2f})"


def two_ranks_table() -> str:
    """Steps of two ranks, a core each, that exchange the rows of embeddings alone."""
    record = _record(BENCHMARKS / "results" / "two_ranks.json")
    _, fixed, measuring = grid.cost_of(record)
    head = ["two ranks, a core each", "fixed step, s", "measuring step, s", "ratio"]
    return markdown_table(head, [[record["hardware"], f"{fixed:.3f}", f"{measuring:.3f}", f"{measuring / fixed:.2f}"]])


def _record(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _grid(name: str) -> str:
    return grid.tables(_record(BENCHMARKS / name / "grid.json"))


TABLES: dict[str, Callable[[], str]] = {
    "steps": steps_table,
    "two_ranks": two_ranks_table,
    "profile": lambda: step_profile.table(_record(BENCHMARKS / "results" / "profile.json")),
    "rule_cost": lambda: rule_cost.table(_record(BENCHMARKS / "results" / "rule_cost.json")["rows"]),
    "three_epochs": lambda: end_to_end.table(BENCHMARKS / "results" / "three_epochs"),
    "one_epoch": lambda: end_to_end.table(BENCHMARKS / "results" / "one_epoch"),
    "grid": lambda: _grid("grid"),
    "grid_base": lambda: _grid("grid_base"),
    "cache": lambda: cache.table(_record(BENCHMARKS / "cache" / "cache.json")),
}
