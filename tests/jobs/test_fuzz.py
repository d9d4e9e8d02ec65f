"""Hundreds of wrong settings and files: each is refused in one line that names it, and none hangs or is accepted."""

import json
import random
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.small_jobs import settings
from helpers.tiny import save_checkpoint, tiny_bert

from hf_kd_lambda import cli
from hf_kd_lambda.jobs.errors import LONGEST
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.studies.comparison.plan import arguments

POSITIVE = ["teacher_epochs", "teacher_learning_rate", "temperature", "lambda_max_change", "lambda_kappa"]
POSITIVE += ["learning_rate", "num_train_epochs", "adam_epsilon", "eval_steps", "save_steps", "logging_steps"]
NOT_NEGATIVE = ["weight_decay", "max_grad_norm", "warmup_steps"]
BELOW_ONE = ["adam_beta1", "adam_beta2", "label_smoothing_factor", "gram_decay"]
COUNTS = ["per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"]
COUNTS += ["save_total_limit", "max_length", "max_train_samples", "max_eval_samples", "lambda_interval"]
CHOICES = ["lambda_rule", "lambda_form", "gram_metric", "gram_estimator", "lambda_scope", "precision", "problem"]
CHOICES += ["eval_strategy", "save_strategy", "logging_strategy", "lr_scheduler_type", "optim", "hub_strategy", "task"]
MAPPINGS = ["kd_losses", "lambda_rule_kwargs", "lora", "student_architecture", "teacher_architecture"]
ABSURD = {
    "temperature": (1e-30, 1e30),
    "learning_rate": (1e-30, 1e10),
    "teacher_learning_rate": (1e-30, 1e10),
    "num_train_epochs": (1e-9, 1e12),
    "teacher_epochs": (1e-9, 1e12),
    "lambda_interval": (10**9,),
    "max_grad_norm": (1e-30,),
    "dataloader_num_workers": (10**6,),
}
FLAGS = ["teacher_finetune", "student_without_kd", "cache_teacher", "load_best_model_at_end", "trust_remote_code"]


def wrong_options(draw: random.Random) -> list[dict[str, object]]:
    """Settings each of which is wrong whatever the others are."""

    def word() -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz_", k=draw.randint(3, 12)))

    found = [{name: value} for name in POSITIVE for value in (0, -draw.random(), "nan", "inf", word())]
    found += [{name: value} for name in NOT_NEGATIVE for value in (-draw.random(), "nan", "inf", "-inf", word())]
    found += [{name: value} for name in BELOW_ONE for value in (1, 1 + draw.random(), -draw.random(), "nan", word())]
    found += [{name: value} for name in COUNTS for value in (0, -draw.randint(1, 99), draw.random(), word())]
    found += [{name: value} for name in CHOICES for value in (f"zz{word()}", "", "☃")]
    found += [{name: value} for name in MAPPINGS for value in (word(), "[1]", "3", json.dumps({f"zz{word()}": 1}))]
    found += [{name: f"zz{word()}"} for name in FLAGS]
    found += [{f"zz{word()}": draw.random()} for _ in range(40)]
    found += [
        {"seed": -1},
        {"seed": 2**40},
        {"max_steps": 0},
        {"max_steps": -7},
        {"num_train_epochs": 1e400},
        {"kd_weight": 1.5},
        {"kd_weight": "nan"},
        {"lambda_min": 20},
        {"save_only_model": "true"},
        {"ignore_data_skip": "true"},
        {"resume_from_checkpoint": "x"},
        {"hub_token": "hf_x"},
        {"lr_scheduler_kwargs": '{"num_cycles": NaN}'},
        {"load_best_model_at_end": "true", "eval_strategy": "no", "save_strategy": "no"},
        {"kd_losses": '{"soft_targets": -1}'},
        {"kd_losses": "x" * 5000},
        *({name: value} for name, values in ABSURD.items() for value in values),
        {"lambda_rule_kwargs": '{"gamma": "much"}'},
    ]
    return found


def wrong_at_check(folder: Path) -> list[dict[str, object]]:
    """Settings that only data, models, optimizer or an evaluation show to be wrong."""
    return [
        {"metric_for_best_model": "scor"},
        {"metric_for_best_model": "f1", "load_best_model_at_end": "true", "eval_strategy": "steps", "eval_steps": 1}
        | {"save_strategy": "steps", "save_steps": 1},
        {"optim_args": "a=1"},
        *([] if find_spec("bitsandbytes") else [{"optim": "adamw_8bit"}]),
        {"lr_scheduler_kwargs": '{"unknown": 1}'},
        {"lr_scheduler_type": "cosine_with_min_lr"},
        {"dataloader_drop_last": "true", "per_device_train_batch_size": 1000},
        {"dataloader_drop_last": "true", "per_device_eval_batch_size": 1000, "eval_strategy": "epoch"},
        {"max_length": 1},
        {"max_length": 2},
        {"student_architecture": '{"model_type": "bert", "hidden_size": 12000000}', "student_layers": None},
        {"student_architecture": '{"model_type": "bert", "num_hidden_layers": 1000000000}', "student_layers": None},
        {"student_layers": [0, 99]},
        {"student_layers": [-1]},
        {"text_column": "nothing"},
        {"label_column": "nothing"},
        {"teacher_dir": str(folder / "out")},
        {"teacher_dir": str(folder / "out" / "checkpoint-7")},
        {"teacher_dir": str(folder / "out" / "without_kd")},
        {"output_dir": str(folder / "train.csv")},
        {"teacher": str(folder / "nothing")},
        {"teacher": "./nothing"},
        {"train_file": str(folder / "nothing.csv")},
        {"train_file": str(folder)},
    ]


YAML = {
    "key twice below": "kd_losses:\n  soft_targets: 1\n  soft_targets: 2\n",
    "key twice": "seed: 1\nseed: 2\n",
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "recursive": "kd_losses: &a [*a]\n",
    "deep": "kd_losses: " + "[" * 5000 + "]" * 5000,
    "list": "- seed: 1\n",
    "text": "seed",
    "tab": "kd_losses:\n\tsoft_targets: 1\n",
    "python": "seed: !!python/object/apply:os.system [ls]\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "no key": "? [1, 2]\n: 3\n",
    "unknown alias": "seed: *nothing\n",
    "open": 'run_name: "x\n',
    "null key": ": 3\n",
    "number": "3: 4\n",
    "date": "learning_rate: 2024-13-45\n",
    "binary tag": "seed: !!binary x\n",
}

CSV = {
    "empty": "",
    "only a head": "review,kind\n",
    "no label column": "review\ngood\nbad\n",
    "one class": "review,kind\ngood,praise\nbest,praise\n",
    "open quote": 'review,kind\n"good,praise\nbad,rant\n',
    "ragged": "review,kind\ngood,praise,x,y\nbad,rant\n",
    "integers with a gap": "review,kind\ngood,0\nbad,7\n",
    "no labels": "review,kind\ngood,\nbad,\n",
    "numbers as texts": "review,kind\n1,praise\n2,rant\n",
}
OTHER_CAUSES = {
    "one class": "the train split",
    "integers with a gap": "the train split",
    "no labels": "teacher_finetune=True",
    "numbers as texts": "validation_file=",
}
"""What the message names instead of a training file that can be read."""
RAW = {
    "csv": b"\xff\xfe\x00\x01" * 50,
    "parquet": b"PAR1 no parquet",
    "json": b'{"review": [',
    "jsonl": b"\x00\x01",
    "xyz": b"",
}


def damaged_teachers(folder: Path) -> dict[str, Path]:
    """Folders of a teacher, each with other damage."""

    def edit(path: Path, **changed: object) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    damages = {
        "no config": lambda model: (model / "config.json").unlink(),
        "no weights": lambda model: (model / "model.safetensors").unlink(),
        "no tokenizer": lambda model: [path.unlink() for path in model.glob("token*")],
        "empty config": lambda model: (model / "config.json").write_text(""),
        "config of a list": lambda model: (model / "config.json").write_text("[]"),
        "unknown type": lambda model: edit(model / "config.json", model_type="nothing"),
        "more layers": lambda model: edit(model / "config.json", num_hidden_layers=6),
        "another width": lambda model: edit(model / "config.json", hidden_size=16),
        "heads that do not divide": lambda model: edit(model / "config.json", num_attention_heads=5),
        "a width that no memory holds": lambda model: edit(model / "config.json", hidden_size=12_000_000),
        "layers without end": lambda model: edit(model / "config.json", num_hidden_layers=10**9),
        "smaller vocabulary": lambda model: edit(model / "config.json", vocab_size=10),
        "empty weights": lambda model: (model / "model.safetensors").write_bytes(b""),
        "half of the weights": lambda model: (model / "model.safetensors").write_bytes(
            (model / "model.safetensors").read_bytes()[:5000]
        ),
        "weights of zeroes": lambda model: (model / "model.safetensors").write_bytes(bytes(5000)),
        "broken tokenizer": lambda model: (model / "tokenizer.json").write_text("{"),
    }
    whole = save_checkpoint(tiny_bert(num_labels=2), folder / "whole")
    found = {}
    for name, damage in damages.items():
        found[name] = folder / name.replace(" ", "_")
        shutil.copytree(whole, found[name])
        damage(found[name])
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Right settings of a small job."""
    folder = tmp_path_factory.mktemp("fuzz")
    return folder, settings(folder)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs the command with these arguments, and returns the line in which it is refused."""

    def accept(job: DistillationJob) -> None:
        raise SystemExit("accepted")

    monkeypatch.setattr(DistillationJob, "run", accept)

    def run(argv: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["distill", *argv])
        message = str(stop.value.code)
        assert message.startswith("error: "), (argv, message)
        assert "\n" not in message, argv
        assert len(message) < LONGEST + 100, argv
        assert "unexpected; the traceback is in" not in message, (argv, message)
        capsys.readouterr()
        return message

    return run


def test_the_settings_are_right_but_for_what_is_wrong(base, refused):
    with pytest.raises(AssertionError, match="accepted"):
        refused(arguments(base[1]))


def test_wrong_settings_are_refused_by_name(base, refused):
    cases = wrong_options(random.Random(0)) + wrong_at_check(base[0])
    assert len(cases) > 250
    for case in cases:
        message = refused(arguments(base[1] | case))
        assert any(name in message for name in case), (case, message)


def test_wrong_files_of_settings_are_refused(base, refused, tmp_path):
    for name, text in YAML.items():
        file = tmp_path / f"{name.replace(' ', '_')}.yaml"
        file.write_text(text)
        assert str(file) in refused([str(file), *arguments(base[1])]), name
    for content in (b"\xff\xfe\x00", bytes(100), b"seed: 1\n" * 200_000):
        file.write_bytes(content)
        assert str(file) in refused([str(file), *arguments(base[1])])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_wrong_files_of_data_are_refused(base, refused, tmp_path, split):
    contents = {name: (".csv", text.encode()) for name, text in CSV.items()}
    contents |= {f"raw {suffix}": (f".{suffix}", content) for suffix, content in RAW.items()}
    for name, (suffix, content) in contents.items():
        if split == "validation" and name in ("one class", "numbers as texts"):
            continue  # which are right there
        file = tmp_path / f"{name.replace(' ', '_')}{suffix}"
        file.write_bytes(content)
        message = refused(arguments(base[1] | {f"{split}_file": str(file)}))
        assert (OTHER_CAUSES.get(name, str(file)) if split == "train" else str(file)) in message, (name, message)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_damaged_models_are_refused_by_who_they_are(base, refused, tmp_path, who):
    for name, folder in damaged_teachers(tmp_path).items():
        given = base[1] | ({"student_layers": None} if who == "student" else {})
        message = refused(arguments(given | {who: str(folder)}))
        assert message.startswith(f"error: {who}"), (name, message)
