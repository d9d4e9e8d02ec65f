"""Pushing: what arrives on the Hub, and what a user reads if it does not."""

import copy
import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.hub_server import DROP, USER, HubServer, Repository
from helpers.small_jobs import job, settings
from huggingface_hub import ModelCard
from huggingface_hub.utils import httpx
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_kd_lambda.data.bundled import BUNDLED
from hf_kd_lambda.jobs import hub
from hf_kd_lambda.jobs.hub import PushError, repository_of, student_files
from hf_kd_lambda.reports.model_card import Origin, origin_of
from hf_kd_lambda.studies.comparison.plan import arguments
from hf_kd_lambda.trainer.config import DistillationConfig

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + 17 * "tS"
STUDENT = {
    *("README.md", "config.json", "lambda.png", "model.safetensors", "results.json"),
    *("tokenizer.json", "tokenizer_config.json"),
}
TRAINER = """
import sys
from pathlib import Path
from helpers.small_runs import config, examples, make_trainer, models, train
trainer = train(config(Path(sys.argv[1]), hub_model_id="from-trainer"), *models(), examples())
trainer.push_to_hub(private=True)
trainer.hub_model_id, trainer.args.hub_private_repo = sys.argv[2], None
trainer.push_to_hub()
for settings in ({"push_to_hub": True}, {}):
    given = config(Path(sys.argv[1]), hub_model_id=sys.argv[2], hub_private_repo=True, **settings)
    try:
        make_trainer(given, *models(), examples()).push_to_hub()
    except ValueError as error:
        print(error)
"""
# Pushes in one process, with the arguments of each line, then the logits of the student that the last of them put on
# the branch v2. What each ends with goes to stdout, one line of JSON each.
PUSHES = """
import json, runpy, shlex, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
for line in sys.argv[1:]:
    sys.argv = ["push.py", *shlex.split(line)]
    try:
        runpy.run_path("scripts/push.py", run_name="__main__")
        print(json.dumps(None))
    except SystemExit as exit:
        print(json.dumps(exit.code))
kinds = (AutoModelForSequenceClassification, AutoTokenizer)
model, tokenizer = (kind.from_pretrained(sys.argv[2], revision="v2") for kind in kinds)
print(json.dumps(model(**tokenizer("a great film", return_tensors="pt")).logits.tolist()))
"""
FAILURES = {("/lfs/", 403): "403", ("commit", 500): "500", ("commit", DROP): "connection", ("commit", 401): "401"}


@pytest.fixture(scope="module")
def server():
    with HubServer(TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def run(server, tmp_path_factory):
    """Run Python with the arguments, in an environment where the server is the Hub and its cache is empty."""

    def run(*command: object) -> subprocess.CompletedProcess:
        hub = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path_factory.mktemp("home"))}
        env = {**os.environ, **hub, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        line = [sys.executable, *map(str, command)]
        return subprocess.run(line, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def distilled(run, tmp_path_factory):
    """The folder of a job with `push_to_hub: true`, and what it printed."""
    folder = tmp_path_factory.mktemp("job")
    hub = {"push_to_hub": True, "hub_model_id": "from-job", "hub_private_repo": True}
    result = run("scripts/distill.py", *arguments(settings(folder, student_without_kd=True, **hub)))
    assert result.returncode == 0, result.stderr
    return folder / "out", result.stdout + result.stderr


@pytest.fixture(scope="module")
def pushes(server, run, distilled):
    """What pushes ended with: four break off, one repeats them, two to a public one, one to a branch; the logits."""
    folder, _ = distilled
    before = contents(folder)
    for path, status in FAILURES:
        server.fail_once(path, status)
    repeated = shlex.join([str(folder), "broken-off", "--private"])
    branch = [str(folder), f"{USER}/fetched", "--revision", "v2", "--commit_message", "second thoughts"]
    of_another = dict.fromkeys(("model.onnx", "adapter_config.json", "vocab.txt", "handler.py", "notes.txt"), b"")
    server.repositories[f"{USER}/public"] = Repository(private=False, branches={"main": of_another})
    public = shlex.join([str(folder), "public"])
    result = run("-c", PUSHES, *[repeated] * (len(FAILURES) + 1), f"{public} --private", public, shlex.join(branch))
    assert result.returncode == 0, result.stderr
    assert contents(folder) == before
    assert TOKEN not in result.stdout + result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if not line.startswith("pushed: ")]


@pytest.fixture
def finished(tmp_path):
    """A folder with the files of a finished run, all empty, and some others that a run leaves."""
    others = ["run.json", "training_args.bin", "trainer_state.json", "optimizer.pt", ".env", "notes.txt", "token"]
    inner = ["checkpoint-3", "teacher", "without_kd", "probe"]
    for name in inner:
        (tmp_path / name).mkdir()
    for name in [*STUDENT, *others, *(f"{folder}/{name}" for folder in inner for name in STUDENT)]:
        (tmp_path / name).write_text("")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_job_pushes_the_student_alone(server, distilled):
    folder, output = distilled
    repository = server.repositories[f"{USER}/from-job"]
    assert repository.private
    assert repository.branches["main"].keys() == STUDENT
    assert (folder / "teacher" / "model.safetensors").is_file()
    for name, data in repository.branches["main"].items():
        assert data == (folder / name).read_bytes()
    assert f"{server.endpoint}/{USER}/from-job/commit/" in output


def test_a_job_whose_push_fails_is_finished_all_the_same(tmp_path, monkeypatch):
    def refuse(*args):
        raise PushError("the connection failed")

    monkeypatch.setattr("hf_kd_lambda.jobs.job.push_student", refuse)
    with pytest.raises(PushError, match="the connection failed"):
        job(settings(tmp_path, push_to_hub=True)).run()
    assert set(student_files(tmp_path / "out")) == STUDENT, "the run is recorded as finished"


def test_a_trainer_without_a_job_pushes_its_card_and_figure_too(server, run, tmp_path):
    public = f"{USER}/of-all"
    of_another = {"adapter_config.json": b"", "notes.txt": b""}
    server.repositories[public] = Repository(private=False, branches={"main": of_another})
    result = run("-c", TRAINER, tmp_path / "student", public)
    assert result.returncode == 0, result.stderr
    assert server.repositories[public].branches["main"].keys() >= {"model.safetensors", "notes.txt"}
    assert "adapter_config.json" not in server.repositories[public].branches["main"], "the student would not load"
    refusals = [line for line in result.stdout.splitlines() if f"'{public}' is a public repository" in line]
    assert len(refusals) == 2, "where it is made before training, and where it is pushed"
    assert len(server.repositories[public].commits) == 1
    assert server.repositories[f"{USER}/from-trainer"].private
    files = server.repositories[f"{USER}/from-trainer"].branches["main"]
    pushed = {"README.md", "lambda.png", "config.json", "model.safetensors"}
    assert pushed == files.keys() - {".gitattributes"}
    assert {path.name for path in (tmp_path / "student").iterdir()} > pushed, "training_args.bin and others stay"
    card = ModelCard(files["README.md"].decode())
    assert "hf-kd-lambda" in card.data.tags
    assert "(lambda.png)" in card.text


def test_the_card_of_a_job_says_what_was_done(distilled):
    card = ModelCard.load(distilled[0] / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert set(card.data.tags) == {"knowledge-distillation", "hf-kd-lambda"}
    assert card.data.base_model is None, "the teacher is a local folder"
    assert "student without KD" in card.text
    for text in (card.content, (distilled[0] / "results.json").read_text()):
        assert str(distilled[0].parent) not in text, "no folder of this machine"


def test_a_pushed_student_predicts_the_same_elsewhere(server, distilled, pushes):
    repository = server.repositories[f"{USER}/fetched"]
    assert not repository.private
    assert repository.commits == ["second thoughts"]
    assert not repository.branches["main"], "pushed to the branch alone"
    model, tokenizer = (
        kind.from_pretrained(distilled[0]) for kind in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    expected = model(**tokenizer("a great film", return_tensors="pt")).logits
    torch.testing.assert_close(torch.tensor(pushes[-1]), expected)  # it may have other threads


def test_a_push_that_breaks_off_is_explained_and_can_be_repeated(server, distilled, pushes):
    *messages, last, _, _, _, _ = pushes
    for message, reason in zip(messages, FAILURES.values(), strict=True):
        assert reason in message
        assert message.startswith("error: ")
        assert "\n" not in message
        assert f"The model is safe in {distilled[0]}" in message
        assert message.endswith(shlex.join(["hf-kd-lambda", "push", str(distilled[0]), "broken-off", "--private"]))
    assert "HF_TOKEN" in messages[-1]
    assert "hf auth login" in messages[-1]
    assert last is None, "the fifth attempt succeeded"
    assert server.repositories[f"{USER}/broken-off"].private
    assert server.repositories[f"{USER}/broken-off"].branches["main"].keys() == STUDENT


def test_a_public_repository_is_no_place_for_a_private_student(server, pushes):
    *_, refused, pushed, _, _ = pushes
    assert "'tester/public' is a public repository" in refused
    assert pushed is None


def test_what_another_student_has_left_is_deleted(server, pushes):
    files = server.repositories[f"{USER}/public"].branches["main"]
    assert files.keys() == STUDENT | {"handler.py", "notes.txt"}


def test_no_token_is_written_anywhere(server, distilled):
    folder, output = distilled
    assert TOKEN not in output
    for path in folder.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()
    assert all(TOKEN.encode() not in received for received in server.received), "it belongs into a header alone"


def test_the_token_of_a_config_is_not_pickled(tmp_path):
    config = DistillationConfig(str(tmp_path), hub_token=TOKEN)
    torch.save(config, tmp_path / "training_args.bin")
    assert TOKEN.encode() not in (tmp_path / "training_args.bin").read_bytes()
    assert copy.copy(config).hub_token == TOKEN  # the trainer's own copy, which pushes
    assert copy.deepcopy(config).hub_token == TOKEN


def test_a_repository_that_cannot_be_made_is_refused_before_training(tmp_path, monkeypatch):
    def refuse(*args):
        raise PushError("no such namespace")

    monkeypatch.setattr("hf_kd_lambda.jobs.job.make_repository", refuse)
    with pytest.raises(PushError, match="no such namespace"):
        job(settings(tmp_path, push_to_hub=True)).check()
    assert not (tmp_path / "out" / "teacher" / "model.safetensors").exists()


def test_only_files_of_the_student_are_pushed(finished):
    (finished / "run.json").write_text('{"finished": true, "settings": {}}')
    (finished / "label_quality.parquet").touch()
    assert set(student_files(finished)) == STUDENT
    of_others = {"generation_config.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"}
    (finished / "additional_chat_templates").mkdir()
    for name in (*of_others, "additional_chat_templates/notes.txt"):
        (finished / name).touch()
    assert set(student_files(finished)) == STUDENT | of_others


def test_of_python_files_those_that_the_student_needs_are_pushed(finished):
    classes = {"AutoConfig": "configuring.Config", "AutoModel": "org/other--modeling.Model"}
    (finished / "config.json").write_text(json.dumps({"auto_map": classes}))
    (finished / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own_tokens.Slow", null]}}')
    (finished / "configuring.py").touch()
    (finished / "own_tokens.py").write_text("from transformers import PreTrainedTokenizer")
    (finished / "modeling.py").write_text("from .bert_padding import pad\nfrom .configuring import Config")
    (finished / "bert_padding.py").write_text("import train")
    for name in ("train.py", "sitecustomize.py", "vocab.zip", "secret.model"):
        (finished / name).touch()
    code = {"configuring.py", "own_tokens.py", "modeling.py", "bert_padding.py"}
    assert set(student_files(finished)) == STUDENT | code


def test_a_folder_without_a_finished_student_is_refused(finished):
    (finished / "run.json").write_text('{"finished": false, "settings": {}}')
    with pytest.raises(ValueError, match="not finished"):
        student_files(finished)
    (finished / "README.md").unlink()
    with pytest.raises(ValueError, match="no model card"):
        student_files(finished)
    missing = r"no config\.json, no weights, no tokenizer or image processor, no model card"
    with pytest.raises(ValueError, match=missing):
        student_files(finished / "nowhere")


def test_a_job_takes_no_token_and_pushes_no_checkpoints(tmp_path):
    folder = str(tmp_path / "sst2")
    assert repository_of(DistillationConfig(folder)) is None
    assert repository_of(DistillationConfig(folder, push_to_hub=True)) == "sst2"
    assert repository_of(DistillationConfig(folder, push_to_hub=True, hub_model_id="org/student")) == "org/student"
    with pytest.raises(ValueError, match="hub_token would be written") as refused:
        repository_of(DistillationConfig(folder, hub_token=TOKEN))
    assert TOKEN not in str(refused.value)
    with pytest.raises(ValueError, match="hub_strategy='all_checkpoints'"):
        repository_of(DistillationConfig(folder, push_to_hub=True, hub_strategy="all_checkpoints"))


def test_what_is_here_is_not_taken_for_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not origin_of("org/model", BUNDLED).on_hub
    assert origin_of("org/other", BUNDLED) == Origin("org/other", on_hub=True)
    assert not origin_of("quickstart", BUNDLED).on_hub
    assert not origin_of(str(tmp_path / "gone"), BUNDLED).on_hub


def test_a_token_in_an_error_is_not_repeated(monkeypatch, finished):
    def illegal(*args, **kwargs):
        raise httpx.LocalProtocolError(f"Illegal header value b'Bearer {TOKEN}'")

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for failing in (illegal, lambda *args, **kwargs: (_ for _ in ()).throw(ValueError(f"bad {TOKEN}"))):
        monkeypatch.setattr(hub, "create_repo", failing)
        with pytest.raises(PushError) as refused:
            hub.make_repository("student")
        assert TOKEN not in str(refused.value)
