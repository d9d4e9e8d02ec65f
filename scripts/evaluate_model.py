"""Evaluate a saved model on any split: `python scripts/evaluate_model.py MODEL --dataset nyu-mll/glue --task sst2`.

The same as `hf-kd-lambda evaluate`.
"""

import sys

from hf_kd_lambda import cli


def main() -> None:
    """Run the command with the arguments of this program."""
    cli.main(["evaluate", *sys.argv[1:]])


if __name__ == "__main__":
    main()
