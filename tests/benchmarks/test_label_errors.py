"""The noise and the tables of the comparison with cleanlab."""

import numpy as np
import pytest

from benchmarks.label_errors import changed, report


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_noise_has_the_rates_of_the_design(rate):
    truth = np.arange(30000) % 3
    symmetric, of_class = (changed(truth, 3, kind, rate) for kind in ("symmetric", "class"))
    assert (symmetric != truth).mean() == pytest.approx(rate, abs=1e-3)
    assert np.bincount((symmetric - truth)[symmetric != truth] % 3).tolist()[0] == 0
    shares = [(of_class != truth)[truth == label].mean() for label in range(3)]
    assert shares == pytest.approx([0.5 * rate, rate, 1.5 * rate], abs=0.015)
    assert set((of_class - truth)[of_class != truth] % 3) == {1}


def test_what_was_not_run_is_a_dash():
    one = {"method": "trust", "data": "tweets", "kind": "class", "rate": 0.1, "auc": 0.9, "share": 0.08, "wrong": 0.1}
    lines = report([{**one, "seconds": 2.0, "training": 60.0}]).splitlines()
    assert "| tweets | class | 10% | 10.0% | – | 0.900 | – | – |" in lines
    assert "| tweets | class | 10% | 10.0% | – | 2 (+ 60) | – | – |" in lines
