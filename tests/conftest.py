"""Settings of all tests."""

from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True)  # no test is about time
settings.load_profile("tests")
