"""How a command ends when something goes wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_jobs import job, settings
from helpers.tiny import save_checkpoint, tiny_bert
from safetensors.torch import save_file
from transformers import BertTokenizerFast

from hf_kd_lambda import cli
from hf_kd_lambda.jobs.errors import LONGEST, TrainingStoppedError, ending_in_one_line, shortened
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.studies.comparison.plan import arguments

ROOT = Path(__file__).parents[2]


def ended(error: BaseException) -> SystemExit:
    with pytest.raises(SystemExit) as stop, ending_in_one_line():
        raise error
    return stop.value


def test_an_error_is_one_line_of_bounded_length():
    assert ended(ValueError("a=1\n  must be 2")).code == "error: a=1 must be 2"
    message = ended(OSError("start " + "x" * 10_000 + " end")).code
    assert len(message) <= LONGEST + len("error: ")
    assert message.startswith("error: start x")
    assert message.endswith("x end")
    assert shortened("a b") == "a b"


def test_the_traceback_of_an_unexpected_error_is_kept():
    message = ended(KeyError("where")).code
    assert "\n" not in message
    file = message.partition("the traceback is in ")[2].rstrip(")")
    assert "KeyError: 'where'" in Path(file).read_text()
    Path(file).unlink()


def test_traceback_lets_errors_through():
    with pytest.raises(ValueError, match="a=1"), ending_in_one_line(with_traceback=True):
        raise ValueError("a=1")
    with pytest.raises(ValueError, match="unknown command 'distil': did you mean 'distill'"):
        cli.main(["distil", "--traceback"])


def test_signals_end_with_the_code_of_a_shell(capsys):
    assert ended(TrainingStoppedError(15, "runs/x")).code == 128 + 15
    assert "rerun the same command to resume from the checkpoint in runs/x." in capsys.readouterr().err
    assert ended(KeyboardInterrupt()).code == 128 + 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_training_is_one_clear_line(tmp_path, monkeypatch, capsys, number):
    monkeypatch.setattr(DistillationJob, "check", lambda job: os.kill(os.getpid(), number))
    handler = signal.getsignal(signal.SIGTERM)
    of_sigint = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
    with pytest.raises(SystemExit) as stop:
        cli.main(["distill", *arguments(settings(tmp_path))])
    assert stop.value.code == 128 + number
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("interrupted; rerun the same command")
    assert signal.getsignal(signal.SIGTERM) is handler
    signal.signal(signal.SIGINT, of_sigint)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_starts_is_one_clear_line(tmp_path, number):
    command = [sys.executable, str(ROOT / "scripts" / "distill.py"), *arguments(settings(tmp_path))]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it in the background
    )
    assert "loading" in process.stderr.readline()
    process.send_signal(number)
    text = process.stderr.read()
    assert process.wait(timeout=300) == 128 + number
    assert "Traceback" not in text
    assert text.strip().splitlines()[-1].startswith(("interrupted; rerun the same command", "stopped by a signal"))


def test_help_is_there_without_torch():
    program = "import sys; from hf_kd_lambda.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for command in cli.COMMANDS:
        assert f"  {command} " in result.stdout


@pytest.mark.parametrize("damage", ["more layers", "no tokenizer"])
def test_an_incomplete_teacher_is_refused(tmp_path, damage):
    given = settings(tmp_path)
    folder = Path(str(given["teacher"]))
    if damage == "more layers":
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 6}))
        expected = r"teacher=.* is incomplete: .* such as bert.encoder.layer.4.*, are missing in its weights"
    else:
        for file in folder.glob("token*"):
            file.unlink()
        expected = r"teacher: its tokenizer maps every word .* tokenizer files"
    with pytest.raises(ValueError, match=expected):
        job(given).check()


def test_a_checkpoint_without_pooler_and_head_suits_a_new_head(tmp_path):
    given = settings(tmp_path)
    model = tiny_bert(num_labels=2)
    kept = {
        name: x.clone() for name, x in model.state_dict().items() if not name.startswith(("bert.pooler", "classi"))
    }
    save_file(kept, Path(str(given["teacher"])) / "model.safetensors", metadata={"format": "pt"})
    job(given).check()


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    given = settings(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{index}" for index in range(200))]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(str(given["teacher"]))
    with pytest.raises(ValueError, match=r"teacher: its tokenizer has 205 tokens, its model embeddings of 95"):
        job(given).check()
    save_checkpoint(tiny_bert(num_labels=2, vocab_size=300), Path(str(given["teacher"])))
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(str(given["teacher"]))
    with pytest.raises(ValueError, match=r"teacher: its tokenizer maps every word of the first 100 examples"):
        job(given).check()


def test_an_unexpected_error_on_a_full_disk_is_still_one_line(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    assert ended(KeyError("where")).code == "error: KeyError: 'where' (unexpected; --traceback prints the traceback)"
