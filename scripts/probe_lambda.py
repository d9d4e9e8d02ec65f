"""Measure what a step does to both losses over λ: `python scripts/probe_lambda.py configs/NAME.yaml`.

The same as `hf-kd-lambda probe`.
"""

import sys

from hf_kd_lambda import cli


def main() -> None:
    """Run the command with the arguments of this program."""
    cli.main(["probe", *sys.argv[1:]])


if __name__ == "__main__":
    main()
