"""The time that a rule takes of a step."""

from benchmarks import rule_cost


def test_the_calls_of_a_rule_are_timed_in_each_step(monkeypatch):
    monkeypatch.setattr(rule_cost, "BATCH", 2)
    monkeypatch.setattr(rule_cost, "STEPS", 8)
    clock = rule_cost.measure("trust")
    assert len(clock.steps) == len(clock.calls) == 16
    assert all(0 < rule < step for rule, step in zip(clock.calls[:8], clock.steps[:8], strict=True))
