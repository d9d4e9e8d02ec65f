"""Attributes with other values for a while."""

from types import SimpleNamespace

import pytest

from hf_kd_lambda.utils.changed import changed


def fail_with(owner, **values):
    with changed(owner, **values):
        raise RuntimeError(vars(owner).copy())


def test_values_are_those_of_before_also_after_an_error():
    owner = SimpleNamespace(first=1, second=2, third=3)
    with pytest.raises(RuntimeError) as error:
        fail_with(owner, first=None, second="b")
    assert error.value.args == ({"first": None, "second": "b", "third": 3},)
    assert vars(owner) == {"first": 1, "second": 2, "third": 3}
