"""Jobs with several teachers: settings, and a whole run."""

import json

import pytest
import torch
from helpers.small_jobs import WORDS, job, settings
from helpers.tiny import save_checkpoint, tiny_bert

from hf_kd_lambda import ModelArguments
from hf_kd_lambda.models.ensemble import Ensemble
from hf_kd_lambda.studies.probe.probe import batch

NAMES = sorted(WORDS)


def saved(folder, seed, names=NAMES):
    torch.manual_seed(seed)
    model = tiny_bert(layers=2, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    model.classifier.weight.data *= 20
    return save_checkpoint(model, folder)


def job_of_two(folder, **changed):
    """A job with two teachers, of which the second has three times the weight of the first."""
    names = [saved(folder / name, seed) for seed, name in enumerate("ab")]
    given = {
        "teacher": f"[{', '.join(names)}]",
        "teacher_weights": {names[0]: 1, names[1]: 3},
        "teacher_finetune": None,
        "teacher_epochs": None,
        "teacher_learning_rate": None,
        "student_layers": [0],
        "max_steps": 2,
        "teacher_cache_dir": str(folder / "cache"),
    }
    return job(settings(folder, **given, **changed))


def test_two_teachers_teach_by_their_weights(tmp_path):
    whole = job_of_two(tmp_path, teacher_dtype="bf16")
    whole.check()
    teacher = whole.load_teacher()
    assert isinstance(teacher, Ensemble)
    assert teacher.weights == [0.25, 0.75]
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in whole.load_student(teacher).parameters()} == {torch.float32}
    reports = whole.run()
    assert [report.name for report in reports] == ["teacher", "student with KD"]
    assert reports[0].parameters == sum(parameter.numel() for parameter in teacher.parameters())
    assert len(list((tmp_path / "cache").iterdir())) == 2, "one file a split holds what both teachers say"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| teachers | `a` (not on the Hub), `b` (not on the Hub) |" in card
    metrics = [model["metrics"] for model in json.loads((tmp_path / "out" / "results.json").read_text())["models"]]
    assert metrics[0]["accuracy"] == pytest.approx(reports[0].metrics["accuracy"])


def test_a_probe_compares_with_their_mean(tmp_path):
    whole = job_of_two(tmp_path)
    teacher = whole.load_teacher().eval()
    inputs, logits, labels = batch(whole, whole.load_student(teacher), teacher, 0)
    first, second = (member(**inputs).logits for member in teacher.members)
    torch.testing.assert_close(logits, 0.25 * first + 0.75 * second)
    assert len(labels) == len(logits)


def test_with_trust_each_teacher_has_its_own_reliability(tmp_path, monkeypatch):
    whole = job_of_two(tmp_path, lambda_rule="trust")
    monkeypatch.setattr(type(whole.task), "chance", lambda *_: 0.0)  # these teachers guess: labels are judged anyway
    whole.check()
    whole.run()
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    last = [entry for entry in history if "teacher_reliability" in entry][-1]
    first, second = (last[f"teacher_reliability_{index}"] for index in (0, 1))
    assert last["teacher_reliability"] == pytest.approx(0.25 * first + 0.75 * second)
    quality = json.loads((tmp_path / "out" / "results.json").read_text())["label_quality"]
    assert quality["teacher_reliabilities"] == pytest.approx([first, second])
    words = f"The reliability is {first:.2f} for teacher 1, {second:.2f} for teacher 2."
    assert words in " ".join((tmp_path / "out" / "README.md").read_text().split())


def test_labels_that_are_numbers_have_one_order_in_all_models(tmp_path):
    generic = [f"LABEL_{index}" for index in range(3)]
    orders = {"g": generic, "a": NAMES, "b": NAMES[::-1], "s": NAMES[1:] + NAMES[:1]}
    *teachers, student = [saved(tmp_path / name, 0, order) for name, order in orders.items()]
    given = {"teacher": f"[{', '.join(teachers)}]", "student": student, "student_layers": None, "label_column": "kind"}
    given |= dict.fromkeys(("teacher_finetune", "teacher_epochs", "teacher_learning_rate"))
    rows = "".join(f"{word},{index}\n" for index, name in enumerate(NAMES) for word in WORDS[name] * 4)
    (tmp_path / "numbers.csv").write_text("review,kind\n" + rows)
    files = {"train_file": str(tmp_path / "numbers.csv"), "validation_file": None, "test_file": None}
    whole = job({**settings(tmp_path, **given), **files})
    assert whole.data.label_names == NAMES
    teacher = whole.load_teacher()
    models = [*teacher.members, whole.load_student(teacher)]
    assert [list(model.config.id2label.values()) for model in models] == [NAMES] * 4
    plain = models[0].classifier.weight  # all heads are one, but for the order
    for model, order in zip(models, orders.values(), strict=True):
        rows = range(3) if order is generic else [order.index(name) for name in NAMES]
        torch.testing.assert_close(model.classifier.weight, plain[list(rows)])


STUDENT = {"student": "s"}


@pytest.mark.parametrize(
    ("given", "teachers"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ("[a, b]", ["a", "b"]), (["a"], ["a"]), ("[a]", ["a"])],
)
def test_teachers_are_a_name_or_a_list(given, teachers):
    assert ModelArguments(teacher=given, **STUDENT).teachers == teachers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher": ["a", "a"]}, r"teacher=\['a', 'a'\] must name different teachers"),
        ({"teacher": []}, r"teacher=\[\] must name different teachers"),
        ({"teacher": ["a", "b"], "teacher_finetune": True}, "only a single teacher can be fine-tuned"),
        ({"teacher": "a", "teacher_weights": {"a": 1}}, "a weight for each of several teachers"),
        ({"teacher": ["a", "b"], "teacher_weights": {"a": 1}}, "a weight for each of several teachers"),
        ({"teacher": ["a", "b"], "teacher_weights": {"a": 1, "b": 0}}, "teacher_weights: b=0 must be a positive"),
        ({"teacher": ["a", "b"], "teacher_weights": {"a": 1, "b": "2"}}, "teacher_weights: b='2' must be a positive"),
        ({"teacher": "a", "teacher_dtype": "int8"}, "teacher_dtype='int8' is not one of None, fp32, bf16, fp16, auto"),
        ({"teacher": ["a", "b"], "teacher_weights": "3"}, "teacher_weights=3 must be a mapping"),
    ],
)
def test_settings_of_several_teachers_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**given, **STUDENT)


def test_teachers_that_read_other_inputs_are_refused(tmp_path):
    names = [saved(tmp_path / name, 0) for name in "ab"]
    config = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    config["normalizer"]["lowercase"] = False
    (tmp_path / "b" / "tokenizer.json").write_text(json.dumps(config))
    other = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps({**other, "do_lower_case": False}))
    whole = job(settings(tmp_path, teacher=f"[{', '.join(names)}]", teacher_finetune=None))
    with pytest.raises(ValueError, match=r"the inputs of .* differ from those of the first"):
        whole.check()
