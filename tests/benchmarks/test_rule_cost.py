"""The time that a rule takes of a step."""

from itertools import count

from benchmarks import rule_cost


def test_the_calls_of_a_rule_are_timed_in_each_step(monkeypatch):
    monkeypatch.setattr(rule_cost, "BATCH", 2)
    monkeypatch.setattr(rule_cost, "STEPS", 8)
    monkeypatch.setattr(rule_cost.time, "process_time", map(float, count()).__next__)
    clock = rule_cost.measure("trust")
    assert clock.calls == [3, *[2] * 7] * 2  # at every eighth step, λ is set, too
    assert clock.steps == [2 * calls + 1 for calls in clock.calls]


def test_a_table_shows_the_share_of_the_rule():
    rows = [{"rule": "trust", "epoch": "first", "step_ms": 200.0, "rule_ms": 3.0}]
    assert rule_cost.table(rows).splitlines()[2] == "| `trust` | first | 200 | 3.00 | 1.5% |"
