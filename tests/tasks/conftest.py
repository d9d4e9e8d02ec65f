"""Settings of these tests."""

from helpers.quick_reports import quick_reports

__all__ = ["quick_reports"]
