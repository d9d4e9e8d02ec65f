import dataclasses
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from helpers.tiny import save_checkpoint, tiny_bert
from transformers import AutoModelForSequenceClassification

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import step_profile  # noqa: E402
from benchmarks.contenders import ours, plain  # noqa: E402
from benchmarks.contenders.__main__ import main  # noqa: E402
from benchmarks.contenders.task import Task, adamw, prepare, schedule  # noqa: E402

SENTENCES = [
    "it is a great film",
    "a dull film",
    "not very good",
    "the best",
    "this is the worst film",
    "sad",
    "great!",
]
FEW = {"train": 14, "validation": 7}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of a tiny teacher and of tiny data in the layout of GLUE."""
    data, teacher = tmp_path_factory.mktemp("glue"), tmp_path_factory.mktemp("teacher")
    (data / "sst2").mkdir()
    for split, size in FEW.items():
        rows = {"sentence": [SENTENCES[row % 7] for row in range(size)], "label": [row % 2 for row in range(size)]}
        Dataset.from_dict(rows).to_parquet(data / "sst2" / f"{split}-00000-of-00001.parquet")
    files = "".join(f"  - split: {split}\n    path: sst2/{split}-*\n" for split in FEW)
    (data / "README.md").write_text(f"---\nconfigs:\n- config_name: sst2\n  data_files:\n{files}---\n")
    torch.manual_seed(0)
    # Weights larger than a fresh model's, so that teacher and student do not both say one half.
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    save_checkpoint(tiny_bert(num_labels=2, layers=6, initializer_range=0.5, **no_dropout), teacher)
    return {"teacher": str(teacher), "data": str(data)}


@pytest.fixture
def task(folders):
    return Task(**folders, examples=12, epochs=1, batch=4, student_layers=(0, 2, 5), temperature=2.0, kd_weight=0.3)


@pytest.fixture
def parts(task):
    return prepare(task)


@pytest.fixture
def batch(parts):
    return parts.collator([parts.train[row] for row in range(4)])


@pytest.fixture
def losses(task, parts, batch):
    """CE, T²·KL and T² times the entropy of the softened teacher, on one batch and with no dropout."""
    with torch.no_grad():
        student, teacher = parts.student(**batch).logits, parts.teacher(**batch).logits
    p, q = (teacher / task.temperature).softmax(-1), (student / task.temperature).softmax(-1)
    kd_loss = (p * (p.log() - q.log())).sum(-1).mean()
    entropy = -(p * p.log()).sum(-1).mean()
    assert kd_loss > 0.01
    return F.cross_entropy(student, batch["labels"]), task.temperature**2 * kd_loss, task.temperature**2 * entropy


def test_plain_descends_both_losses(task, parts, batch, losses, tmp_path):
    ce, kd, _ = losses
    loss = plain.make_trainer(task, parts, tmp_path).compute_loss(parts.student, batch)
    assert loss.item() == pytest.approx((0.7 * ce + 0.3 * kd).item(), rel=1e-5)


def test_textbrewer_descends_both_losses(task, parts, batch, losses, tmp_path):
    pytest.importorskip("textbrewer", reason="TextBrewer is not installed: pip install -e .[benchmark]")
    from benchmarks.contenders.textbrewer_kd import make_distiller

    ce, kd, entropy = losses
    loss, _ = make_distiller(task, parts, tmp_path).train_on_batch(dict(batch), {})
    assert loss.item() == pytest.approx((0.7 * ce + 0.3 * (kd + entropy)).item(), rel=1e-5)


def test_torchdistill_descends_both_losses(task, parts, batch, losses):
    pytest.importorskip("torchdistill", reason="torchdistill is not installed: see benchmarks/contenders")
    from benchmarks.contenders.torchdistill_kd import batch_loss, make_box

    ce, kd, _ = losses
    assert batch_loss(make_box(task, parts), batch).item() == pytest.approx((0.7 * ce + 0.3 * kd).item(), rel=1e-5)


@pytest.mark.parametrize(("library", "module"), [("textbrewer", "textbrewer_kd"), ("torchdistill", "torchdistill_kd")])
def test_other_libraries_end_with_the_student_of_plain(library, module, task, parts, tmp_path):
    pytest.importorskip(library, reason=f"{library} is not installed: see benchmarks/contenders")
    contender = import_module(f"benchmarks.contenders.{module}")
    # One batch of all sentences, since each library draws batches in an order of its own.
    task = dataclasses.replace(task, batch=12, epochs=4, learning_rate=1e-2)
    inputs = parts.collator([{"input_ids": tokens} for tokens in parts.validation["input_ids"]])
    before = parts.student(**inputs).logits
    logits = [_trained_logits(train, task, inputs, tmp_path) for train in (plain.train, contender.train)]
    assert (logits[0] - before).abs().max() > 0.1
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def _trained_logits(train, task, inputs, folder):
    assert train(task, prepare(task), folder) == task.epochs
    return AutoModelForSequenceClassification.from_pretrained(folder)(**inputs).logits


def test_torchdistill_leaves_no_stub_of_torchvision():
    pytest.importorskip("torchdistill", reason="torchdistill is not installed: see benchmarks/contenders")
    from benchmarks.contenders import torchdistill_kd

    stubs = [name for name in torchdistill_kd.STUBBED if isinstance(sys.modules.get(name), torchdistill_kd._Stub)]
    assert stubs == []


def test_optimizer_and_schedule_are_those_of_the_trainer(task, parts, tmp_path):
    trainer = plain.make_trainer(task, parts, tmp_path)
    trainer.create_optimizer_and_scheduler(num_training_steps=3)
    given = adamw(parts.student, task.learning_rate, task.weight_decay)
    for expected, group in zip(trainer.optimizer.param_groups, given.param_groups, strict=True):
        assert {id(parameter) for parameter in expected["params"]} == {id(parameter) for parameter in group["params"]}
        for name in ("weight_decay", "betas", "eps"):
            assert expected[name] == group[name]
    warmup = trainer.args.get_warmup_steps(3)
    assert schedule(task, parts) == {"num_warmup_steps": warmup, "num_training_steps": 3}


def test_ours_is_the_default_on_the_same_settings(task, parts, tmp_path):
    args = ours.make_trainer(task, parts, tmp_path).args
    assert (args.lambda_rule, args.temperature, args.bf16) == ("adaptive", 2.0, False)


def test_ours_builds_its_cache_while_it_trains(task, parts, tmp_path):
    assert ours.train(task, parts, tmp_path) == 3
    assert any((tmp_path / "teacher_cache").iterdir())


def test_command_line_of_plain(folders, tmp_path):
    command = [sys.executable, "-m", "benchmarks.contenders", "plain", "--examples", "8", "--epochs", "2", "--grouped"]
    command += ["--teacher", folders["teacher"], "--data", folders["data"], "--json", str(tmp_path / "plain.json")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    figures = json.loads((tmp_path / "plain.json").read_text())
    assert figures["seconds"] > 0
    assert 0 <= figures["accuracy"] <= 1
    assert (figures["examples"], figures["steps"], figures["grouped"]) == (8, 2, True)
    assert figures["parameters"]["non_embedding"] < figures["parameters"]["all"]
    assert set(figures) == {
        *("name", "precision", "grouped", "seed", "examples", "epochs", "seconds", "accuracy", "steps"),
        *("real_tokens", "parameters", "versions"),
    }


def test_unsupported_settings_of_a_contender_are_refused(monkeypatch, capsys):
    argv = ["-", "textbrewer", "--precision", "bf16", "--teacher", "none", "--json", "none.json"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit):
        main()
    assert "textbrewer supports neither bf16" in capsys.readouterr().err


def test_a_profile_counts_padding_and_the_shares_of_operations(task):
    record = step_profile.measure(dataclasses.replace(task, grouped=True), profiled=8)
    shares = record["shares"].values()
    assert record["shares"]["matrix products"] > 0
    assert sum(shares) < 1
    assert 0 < record["padding"] <= record["random_padding"] < 1
    assert 0 < record["fetching"] < 1
    titles = [line.split(" | ")[0].strip("| ") for line in step_profile.table(record).splitlines()[2:-2]]
    assert sorted(titles, key=lambda title: -record["shares"][title]) == titles
