"""The time that a rule takes of a step."""

from benchmarks import rule_cost


def test_the_calls_of_a_rule_are_timed_in_each_step(monkeypatch):
    monkeypatch.setattr(rule_cost, "BATCH", 2)
    monkeypatch.setattr(rule_cost, "STEPS", 8)
    clock = rule_cost.measure("trust")
    assert len(clock.steps) == len(clock.calls) == 16
    assert all(0 < rule < step for rule, step in zip(clock.calls[:8], clock.steps[:8], strict=True))


def test_a_table_shows_the_share_of_the_rule():
    rows = [{"rule": "trust", "epoch": "first", "step_ms": 200.0, "rule_ms": 3.0}]
    assert rule_cost.table(rows).splitlines()[2] == "| `trust` | first | 200 | 3.00 | 1.5% |"
