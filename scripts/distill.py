"""Distil a student: `accelerate launch scripts/distill.py configs/NAME.yaml [--setting value ...]`.

The same as `hf-kd-lambda distill`.
"""

import sys

from hf_kd_lambda import cli


def main() -> None:
    """Run the command with the arguments of this program."""
    cli.main(["distill", *sys.argv[1:]])


if __name__ == "__main__":
    main()
