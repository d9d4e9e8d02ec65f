"""Fixtures of these tests."""

import pytest

from hf_kd_lambda.models import classifiers, labels


@pytest.fixture
def warnings(monkeypatch):
    """The warnings logged while classifiers are loaded and their labels aligned, as a list of texts."""
    texts = []
    for module in (classifiers, labels):
        monkeypatch.setattr(module.logger, "warning", lambda text, *args: texts.append(text % args))
    return texts
