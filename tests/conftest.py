"""Settings of all tests."""

import torch
from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True)  # no test is about time
settings.load_profile("tests")

torch.set_num_threads(1)  # tiny models gain nothing from more, and sums round alike on every machine
