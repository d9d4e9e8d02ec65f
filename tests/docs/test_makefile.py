import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("has_torch", [True, False])
def test_make_keeps_a_torch_that_is_installed(tmp_path, has_torch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in (("python", "exit 0" if has_torch else "exit 1"), ("pip", 'echo "$@" >> "$0.log"')):
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    target = str(tmp_path / "docs")
    subprocess.run(["make", target, f"VENV={tmp_path}", "PYTHON=true", "TORCH=torch==2.11.0"], cwd=ROOT, check=True)
    own = ["install --editable .[docs]"]
    assert (programs / "pip.log").read_text().splitlines() == (own if has_torch else ["install torch==2.11.0", *own])
