"""Compare rules for λ: `python scripts/compare.py configs/compare_rules.yaml`.

The same as `hf-kd-lambda compare`.
"""

import sys

from hf_kd_lambda import cli


def main() -> None:
    """Run the command with the arguments of this program."""
    cli.main(["compare", *sys.argv[1:]])


if __name__ == "__main__":
    main()
