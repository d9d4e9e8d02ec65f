"""Push a finished student to the Hub: `python scripts/push.py FOLDER REPO_ID`.

FOLDER is the output_dir of a run of distill.py. Its model, tokenizer, card, figure and results.json are pushed, and
nothing else. The token is that of HF_TOKEN or `hf auth login`.
"""

import argparse
import sys
from pathlib import Path

from hf_kd_lambda.jobs.hub import COMMIT_MESSAGE, PushError, push_student


def main() -> None:
    """Push; end with a message instead of a traceback where that fails."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("repo_id", metavar="REPO_ID", help="namespace/name, or a name in your own namespace")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to, made where it does not exist; default: main")
    parser.add_argument("--commit_message", default=COMMIT_MESSAGE)
    try:
        address = push_student(**vars(parser.parse_args()))
    except (PushError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"pushed: {address}")


if __name__ == "__main__":
    main()
