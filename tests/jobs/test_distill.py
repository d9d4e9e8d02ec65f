"""The command `distill`, without a job; test_fuzz.py and tests/distributed/ run whole commands."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from hf_kd_lambda.jobs import distill


@pytest.mark.parametrize("use_cpu", [True, False])
def test_the_device_that_trains_is_named(monkeypatch, use_cpu):
    warnings: list[str] = []
    config = SimpleNamespace(world_size=1, use_cpu=use_cpu, autocast="bf16")
    monkeypatch.setattr(distill, "parse", lambda argv: (None, None, config))
    monkeypatch.setattr(distill, "use_usable_cores", lambda: None)
    monkeypatch.setattr(distill, "hardware", lambda use_cpu: f"the {'CPU' if use_cpu else 'GPU'}")
    monkeypatch.setattr(distill, "DistillationJob", MagicMock())
    monkeypatch.setattr(distill.logger, "warning", warnings.append)
    distill.main([])
    assert warnings == [f"training in bf16 on the {'CPU' if use_cpu else 'GPU'}"]
