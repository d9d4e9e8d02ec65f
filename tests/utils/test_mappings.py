"""Settings that are mappings, as they stand on the command line."""

import pytest

from hf_kd_lambda.utils.mappings import as_mapping


@pytest.mark.parametrize(
    "value", [{"a": 0.001, "b": {"c": "last"}}, '{"a": 1e-3, "b": {"c": "last"}}', "{a: 0.001, b: {c: last}}"]
)
def test_a_mapping_is_json_or_yaml(value):
    assert as_mapping(value, "setting", "{}") == {"a": 0.001, "b": {"c": "last"}}


@pytest.mark.parametrize("value", ["a: 1", "{a: 1", "[1]", "x"])
def test_what_is_no_mapping_is_refused(value):
    with pytest.raises(ValueError, match=r"must be a mapping, e\.g\. \{'a': 1\}"):
        as_mapping(value, "setting", "{'a': 1}")
