"""Push a finished student to the Hub: `python scripts/push.py FOLDER REPO_ID`.

The same as `hf-kd-lambda push`.
"""

import sys

from hf_kd_lambda import cli


def main() -> None:
    """Run the command with the arguments of this program."""
    cli.main(["push", *sys.argv[1:]])


if __name__ == "__main__":
    main()
