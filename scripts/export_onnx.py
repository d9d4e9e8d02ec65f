"""Export a student to ONNX: `python scripts/export_onnx.py FOLDER`.

The same as `hf-kd-lambda export`.
"""

import sys

from hf_kd_lambda import cli


def main() -> None:
    """Run the command with the arguments of this program."""
    cli.main(["export", *sys.argv[1:]])


if __name__ == "__main__":
    main()
