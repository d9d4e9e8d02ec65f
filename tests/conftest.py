"""Settings of all tests."""

import gc
import os
import tempfile

import torch
from hypothesis import settings

settings.register_profile("tests", deadline=None, derandomize=True)  # no test is about time
settings.load_profile("tests")

torch.set_num_threads(1)  # tiny models gain nothing from more, and sums round alike on every machine
os.environ["OMP_NUM_THREADS"] = "1"  # jobs respect it, and so do the processes that tests start

# Before Hugging Face libraries read them: no test waits for the network, and none finds a user's cache, or that of an
# earlier test.
os.environ["HF_HUB_OFFLINE"] = "1"
_home = tempfile.TemporaryDirectory(prefix="hf_kd_lambda_tests.")
os.environ["HF_HOME"] = _home.name


def pytest_collection_finish() -> None:
    """Hide what was imported from the garbage collector, which every `Trainer.train` calls: it would take 0.3 s."""
    gc.freeze()
