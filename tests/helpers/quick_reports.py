"""Jobs whose reports take no seconds: the tests of `reports` draw figures and measure errors of scores."""

import pytest
from matplotlib.figure import Figure

from hf_kd_lambda.jobs import report
from hf_kd_lambda.reports import sampling_error


def _small_figure(log_history, path, *args):
    Figure(figsize=(1, 1)).savefig(path)
    return path


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch):
    """Draw an empty figure, and resample the examples a few times only."""
    monkeypatch.setattr(report, "plot_lambda", _small_figure)
    monkeypatch.setattr(sampling_error, "BOOTSTRAPS", 3)
