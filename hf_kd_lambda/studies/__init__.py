"""Experiments about λ: the comparison of rules and the probe. May import every sub-package; none imports it."""
