"""Finished students on the Hub: which files of a run go there, and the error when they do not arrive.

The token is huggingface_hub's own, from HF_TOKEN or `hf auth login`: no setting here takes one.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, create_branch, create_repo, get_token, upload_folder
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_kd_lambda.jobs.errors import PushError
from hf_kd_lambda.jobs.run_folder import is_unfinished
from hf_kd_lambda.reports.student_files import LEFT_BY_OTHERS, NEEDED, files_to_push, matching, require_private

COMMIT_MESSAGE = "Add the distilled student"
FIXES = {
    401: "the token is missing or not valid: set HF_TOKEN to one with write access, or run `hf auth login`",
    403: "the token may not write there: give it write access, or name a repository of your own",
    404: "there is no such repository for this token: check its name and the token's access",
    429: "too many requests: wait some minutes",
}
FAULT = "the fault is the Hub's: wait some minutes"
DESCRIPTION = """\
Push the output_dir of a finished run: model, tokenizer, card, figure and results.json, and nothing else. The token is
that of HF_TOKEN or `hf auth login`."""


def main(argv: Sequence[str]) -> None:
    """The command `push`.

    Args:
        argv: the command line.

    Raises:
        PushError, ValueError: see `push_student`.
    """
    parser = argparse.ArgumentParser(prog="hf-kd-lambda push", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("repo_id", metavar="REPO_ID", help="namespace/name, or a name in your own namespace")
    parser.add_argument(
        "--private", action="store_true", default=None, help="make a new repository private; refuse a public one"
    )
    parser.add_argument("--revision", help="branch to push to, made where it does not exist; default: main")
    parser.add_argument("--commit_message", default=COMMIT_MESSAGE)
    address = push_student(**vars(parser.parse_args(argv)))
    print(f"pushed: {address}")


def repository_of(config: TrainingArguments) -> str | None:
    """The repository that a job pushes its student to; None where `push_to_hub` is not set.

    Raises:
        ValueError: a setting would put a token into files, or more than the student into the repository.
    """
    if config.hub_token is not None:
        raise ValueError(
            "hub_token would be written into the folder of the run: leave it out, and set HF_TOKEN or run "
            "`hf auth login`."
        )
    if not config.push_to_hub:
        return None
    if config.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"hub_strategy={config.hub_strategy.value!r} would push checkpoints: set it to 'end', as the finished "
            "student alone is pushed."
        )
    return config.hub_model_id or Path(str(config.output_dir)).resolve().name


def student_files(folder: Path) -> list[str]:
    """Names of the files that go to the Hub, all directly in the student's folder.

    Raises:
        ValueError: there is no finished student in the folder.
    """
    here = files_to_push(folder) if folder.is_dir() else []
    missing = [what for what, patterns in NEEDED.items() if not matching(here, patterns)]
    if missing:
        raise ValueError(
            f"{str(folder)!r} is no folder of a finished student: it has no {', no '.join(missing)}. "
            "Name the output_dir of a run that ended."
        )
    if is_unfinished(folder):
        raise ValueError(f"the run in {str(folder)!r} is not finished: run its command again, which resumes it.")
    return here


def make_repository(repo_id: str, private: bool | None = None) -> str:
    """Make a model repository, unless there is one, and return its full name, `namespace/name`.

    Args:
        repo_id: without a namespace, the user's own is taken.
        private: whether a new one is; None for the namespace's default. If True, one that is public is refused.

    Raises:
        PushError: the Hub cannot be reached, or refuses.
    """
    try:
        name = create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private:
            require_private(name)
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise PushError(f"cannot push to {repo_id!r}: {_reason(error)}") from error
    return name


def push_student(
    folder: Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> str:
    """Push a finished student: model, tokenizer, card, figure and results, and nothing else of its folder.

    Such files that another student has left in the repository are deleted there.

    Args:
        folder: the `output_dir` of a finished run; it is only read.
        repo_id: see `make_repository`, as for `private`.
        revision: branch to push to, made where it does not exist. Default: main.
        commit_message: message of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: there is no finished student in the folder.
        PushError: the Hub cannot be reached, refuses or breaks off.
    """
    files = student_files(folder)
    again = ["hf-kd-lambda", "push", str(folder), repo_id, *(["--private"] if private else [])]
    again += ["--revision", revision] if revision else []
    again += ["--commit_message", commit_message] if commit_message != COMMIT_MESSAGE else []
    safe = f"The model is safe in {folder}; this repeats the push: {shlex.join(again)}"
    try:
        repo_id = make_repository(repo_id, private)
        if revision is not None:
            create_branch(repo_id, branch=revision, exist_ok=True)
        commit = upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=files,
            delete_patterns=list(LEFT_BY_OTHERS),
            commit_message=commit_message,
            revision=revision,
        )
    except PushError as error:
        raise PushError(f"{error} {safe}") from error
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise PushError(f"cannot push to {repo_id!r}: {_reason(error)} {safe}") from error
    return commit.commit_url


def _reason(error: BaseException) -> str:
    """What went wrong and what to do, in one sentence or two, without the token."""
    causes = [error]  # threads that upload wrap what went wrong
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            answer = f" ({cause.server_message})" if cause.server_message else ""
            fix = FAULT if status >= 500 else FIXES.get(status, "this is a request that it does not take")
            return _on_one_line(f"{constants.ENDPOINT} answered {status}{answer}: {fix}.")
        if isinstance(cause, httpx.TransportError | OfflineModeIsEnabled):
            what = f"the connection to {constants.ENDPOINT} failed ({type(cause).__name__})"
            return f"{what}: check the network, HF_ENDPOINT and HF_HUB_OFFLINE."
    return _on_one_line(f"{str(error).rstrip('.')}.")


def _on_one_line(text: str) -> str:
    token = get_token()
    return " ".join((text.replace(token, "<token>") if token else text).split())
