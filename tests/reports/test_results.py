import json
import math

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from hf_kd_lambda.reports.results import (
    BETTER_TEACHER,
    ModelReport,
    markdown_table,
    measure_model,
    results_table,
    score_meaning,
    score_notes,
    write_results,
)
from hf_kd_lambda.utils.versions import versions

TEACHER = ModelReport("teacher", {"f1": 0.8, "score": 0.9}, 22_700_000, 90.8, 12.34)
STUDENT = ModelReport("student with KD", {"f1": 0.7, "score": 0.855}, 15_600_000, 62.4, 4.56)


@pytest.fixture
def bert():
    config = BertConfig(vocab_size=2000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_labels=3)
    return BertForSequenceClassification(config)


@pytest.fixture
def example():
    return {"input_ids": torch.arange(8)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_megabytes_are_those_of_the_saved_weights(tmp_path, bert, example, dtype):
    bert.to(dtype).save_pretrained(tmp_path)
    measured = measure_model("teacher", bert, {"accuracy": 0.9}, example)
    assert measured.megabytes == pytest.approx((tmp_path / "model.safetensors").stat().st_size / 1e6, rel=0.01)


def test_tied_weights_count_once(tmp_path, example):
    config = BertConfig(vocab_size=4000, hidden_size=64, num_hidden_layers=1, num_attention_heads=2)
    model = BertForMaskedLM(config)
    model.save_pretrained(tmp_path)
    measured = measure_model("teacher", model, {}, example)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        saved = sum(math.prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
    assert measured.parameters == saved
    assert measured.megabytes == pytest.approx((tmp_path / "model.safetensors").stat().st_size / 1e6, rel=0.01)


def test_latency_is_that_of_the_fastest_round_without_the_warm_up(monkeypatch, bert, example):
    seconds = [0.001, 0.9, 0.6, 0.3, 0.36, 0.42]  # the warm-up of 5 forwards, then rounds of 6
    clock = iter(tick for start, taken in enumerate(seconds) for tick in (1000.0 * start, 1000.0 * start + taken))
    monkeypatch.setattr("hf_kd_lambda.reports.results.time.perf_counter", lambda: next(clock))
    measured = measure_model("teacher", bert, {}, example)
    assert measured.latency_ms == pytest.approx(1e3 * 0.3 / 6)
    assert measured.threads == torch.get_num_threads()
    assert next(clock, None) is None


def test_forward_is_timed_in_eval_and_inference_mode_and_the_mode_is_restored(example):
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self.modes = set()

        def forward(self, input_ids, attention_mask):
            self.modes.add((self.training, torch.is_inference_mode_enabled(), input_ids.shape, attention_mask.shape))

    model = Recorder().train()
    measure_model("teacher", model, {}, example)
    assert model.modes == {(False, True, (1, 8), (1, 8))}
    assert model.training


def test_retained_is_the_share_of_the_teachers_score():
    reports = [TEACHER, STUDENT]
    assert TEACHER.retained(reports) == 1.0
    assert STUDENT.retained(reports) == pytest.approx(0.95)


@pytest.mark.parametrize("score", [0.0, -0.1, math.nan])
def test_nothing_is_retained_of_a_teacher_without_a_positive_score(score):
    teacher = ModelReport("teacher", {"score": score}, 1, 1.0, 1.0)
    student = ModelReport("student with KD", {"score": 0.5}, 1, 1.0, 1.0)
    assert student.retained([teacher, student]) is None
    assert student.retained([student]) is None


def test_results_table_is_aligned_and_in_percent():
    assert results_table([TEACHER, STUDENT]).splitlines() == [
        "                        teacher  student with KD",
        "------------------------------------------------",
        "score (%)                  90.0             85.5",
        "f1 (%)                     80.0             70.0",
        "parameters (M)             22.7             15.6",
        "size (MB)                  90.8             62.4",
        "latency (ms)               12.3              4.6",
        "of teacher's score (%)    100.0             95.0",
    ]


def test_results_table_shows_a_dash_for_what_is_missing():
    student = ModelReport("student with KD", {"score": math.nan}, 1, 1.0, 1.0)
    rows = results_table([TEACHER, student]).splitlines()[2:]
    assert [row.split()[-1] for row in rows] == ["–", "–", "0.0", "1.0", "1.0", "–"]


def test_results_are_valid_json(tmp_path):
    broken = ModelReport("student without KD", {"score": math.nan, "f1": 0.1}, 1, 1.0, 1.0)
    extra = {"task": "sst2", "versions": {"torch": "2.11"}, "loss": [math.inf, 1.0], "teacher_dir": tmp_path}
    path = tmp_path / "results.json"
    write_results(path, [TEACHER, broken, STUDENT], tmp_path / "lambda.png", extra)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    results = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert results["models"][0] == {
        "name": "teacher",
        "metrics": {"score": 0.9, "f1": 0.8},
        "parameters": 22_700_000,
        "megabytes": 90.8,
        "latency_ms": 12.34,
        "threads": None,
        "batch_latency_ms": None,
        "standard_error": None,
        "examples": None,
        "classes": [],
        "retained": 1.0,
    }
    assert results["models"][1]["metrics"] == {"score": None, "f1": 0.1}
    assert results["models"][1]["retained"] is None
    assert results["models"][2]["retained"] == pytest.approx(0.95)
    assert results["main_metric"] == "score"
    assert results["figure"] == "lambda.png"
    assert results["task"] == "sst2"
    assert results["versions"] == {"torch": "2.11"}
    assert results["loss"] == [None, 1.0]
    assert results["teacher_dir"] == str(tmp_path)


def test_results_are_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(path, [TEACHER], tmp_path / "lambda.png", {})
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"
    before = path.read_text(encoding="utf-8")

    def killed(source, target):
        assert len(json.loads(source.read_text(encoding="utf-8"))["models"]) == 2, "complete before it replaces"
        assert source.parent == target.parent, "a rename across file systems is not atomic"
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_results(path, [TEACHER, STUDENT], tmp_path / "lambda.png", {})
    assert path.read_text(encoding="utf-8") == before


def test_the_markdown_table_has_the_same_values_as_the_terminals():
    head, rule, *rows = markdown_table([TEACHER, STUDENT]).splitlines()
    columns = "model | score (%) | f1 (%) | parameters (M) | size (MB) | latency (ms) | of teacher's score (%)"
    assert head == f"| {columns} |"
    assert rule == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert rows[1] == "| student with KD | 85.5 | 70.0 | 15.6 | 62.4 | 4.6 | 95.0 |"
    assert len(rows) == 2


def test_notes_say_what_the_score_is_and_how_exact():
    scored = ModelReport("s", {"score": 0.5, "accuracy": 0.6, "f1": 0.4}, 1, 1.0, 1.0, standard_error=0.02)
    assert score_notes([TEACHER, scored]) == [
        "Score is the mean of accuracy and f1.",
        "A score has a standard error of about 2.0 points: differences of less than 4.0 points may be noise.",
    ]
    assert score_notes([TEACHER]) == []


@pytest.mark.parametrize(("scores", "noted"), [([1.0, 1.0], True), ([1.0, 0.0], False), ([0.0], False)])
def test_a_perfect_score_is_not_exact(scores, noted):
    reports = [ModelReport("s", {"score": score}, 1, 1.0, 1.0, standard_error=0.0, examples=80) for score in scores]
    found = (
        "All 80 examples are right. Of other examples from the same source, up to 3.7% may be wrong (with 95% "
        "confidence)."
    )
    assert (found in score_notes(reports)) == noted


@pytest.mark.parametrize(("metric", "noted"), [("pearson", True), ("accuracy", False)])
def test_the_agreement_of_a_regression_is_named(metric, noted):
    report = ModelReport("s", {metric: 0.5, "score": 0.5, "teacher_agreement": 0.4}, 1, 1.0, 1.0)
    assert ("teacher_agreement is Pearson's correlation" in " ".join(score_notes([report]))) == noted


def test_the_score_is_not_a_metric_that_has_its_value_in_one_model_alone():
    teacher = ModelReport("t", {"score": 0.2, "precision": 1.0, "recall": 0.1, "f1": 0.2}, 1, 1.0, 1.0)
    student = ModelReport("s", dict.fromkeys(teacher.metrics, 0.0), 1, 1.0, 1.0)
    assert score_meaning([teacher, student]) == "score is f1"
    assert score_meaning([student]) == "", "all metrics have its value"


@pytest.mark.parametrize(
    ("scores", "points"), [([0.5, 0.52], ["2.0"]), ([0.5, 0.505], []), ([0.6, 0.5], []), ([0.5], []), ([], [])]
)
def test_a_score_that_was_still_rising_is_named(scores, points):
    history = [{"step": 1, "loss": 1.0}, *({"step": 1, "eval_score": score} for score in scores)]
    found = [note.split(" points in the last evaluation")[0] for note in score_notes([TEACHER], history)]
    assert found == [f"The student's score rose by {gain}" for gain in points]


def test_a_longer_training_is_set_by_the_setting_in_force():
    history = [{"step": step, "eval_score": score} for step, score in ((1, 0.5), (2, 0.6))]
    for settings, name in (({"num_train_epochs": 3}, "num_train_epochs"), ({"max_steps": 9}, "max_steps")):
        assert f"train it for longer ({name})" in " ".join(score_notes([TEACHER], history, settings=settings))


@pytest.mark.parametrize(("teacher", "noted"), [(0.40, True), (0.47, False), (0.60, False)])
def test_a_teacher_below_another_model_by_more_than_noise_is_noted(teacher, noted):
    teacher = ModelReport("teacher", {"score": teacher}, 1, 1.0, 1.0, standard_error=0.02)
    student = ModelReport("student without KD", {"score": 0.5}, 1, 1.0, 1.0, standard_error=0.02)
    found = "The teacher scores below the student without KD."
    for settings, advice in (
        ({}, ""),
        ({"teacher": "bert"}, " A better teacher would help more."),
        ({"teacher_finetune": True}, f" {BETTER_TEACHER}"),
    ):
        assert (found + advice in score_notes([teacher, student], settings=settings)) == noted


@pytest.mark.parametrize(("score", "guesses"), [(0.5, True), (0.56, True), (0.9, False), (math.nan, True)])
def test_a_teacher_that_guesses_is_noted_with_what_to_change(score, guesses):
    teacher = ModelReport("teacher", {"score": score}, 1, 1.0, 1.0, standard_error=0.02)
    found = (
        f"The teacher scores {score:.1%}, and a constant guess scores 55.0%: it was not trained for this task, or for "
        "these labels in another order. Check the order in its config.json (id2label), "
    )
    for settings, fix in (
        ({"teacher": "bert"}, "set teacher_finetune: true, or choose another teacher."),
        ({"teacher": ["a", "b"]}, "fine-tune each of the teachers in a run of its own, or choose others."),
        ({}, "or choose another teacher."),
    ):
        notes = " ".join(score_notes([teacher, STUDENT], chance=0.55, settings=settings))
        assert (found + fix in notes) == guesses
    assert "The teacher scores below" not in notes
    finetuned = {"teacher_finetune": True, "teacher_epochs": 1.0, "teacher_learning_rate": 1e-5}
    notes = " ".join(score_notes([teacher, STUDENT], chance=0.55, settings=finetuned))
    assert ("Raise teacher_epochs (now 1) or teacher_learning_rate (now 1e-05), or choose" in notes) == guesses
    assert "teacher_finetune" not in notes


def test_a_task_without_a_constant_guess_has_no_score_of_it():
    teacher = ModelReport("teacher", {"score": 0.01}, 1, 1.0, 1.0)
    notes = " ".join(score_notes([teacher, STUDENT], chance=0.0, settings={"teacher": "gpt2"}))
    assert "The teacher scores 1.0%: it was not trained" in notes


@pytest.mark.parametrize("metric", ["pearson", "exact_match", "perplexity"])
def test_the_order_of_labels_is_no_advice_where_there_are_no_classes(metric):
    teacher = ModelReport("teacher", {"score": -0.03, metric: 0.1}, 1, 1.0, 1.0)
    for settings, fix in (({"teacher": "bert"}, "Set teacher_finetune: true, or choose"), ({}, "Choose")):
        notes = score_notes([teacher, STUDENT], chance=0.0, settings=settings)
        assert f"The teacher scores -3.0%: it was not trained for this task. {fix} another teacher." in notes


def test_results_without_a_figure_are_written_too(tmp_path):
    write_results(tmp_path / "results.json", [TEACHER], None, {"versions": versions()})
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["figure"] is None
    assert results["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(("score", "chance"), [(0.03, 0.0), (0.6, 0.58), (0.5, 0.58), (math.nan, 0.0)])
def test_nothing_is_retained_of_a_teacher_that_is_not_clearly_above_chance(score, chance):
    teacher = ModelReport("teacher", {"score": score}, 1, 1.0, 1.0)
    assert STUDENT.retained([teacher, STUDENT], chance) is None
    assert results_table([teacher, STUDENT], chance).splitlines()[-1].endswith("–")
    assert STUDENT.retained([TEACHER, STUDENT], chance) == pytest.approx(0.95)


def test_a_better_student_is_above_the_teacher_not_at_more_than_100_percent():
    better = ModelReport("student with KD", {"score": 0.945}, 1, 1.0, 1.0)
    for table in (results_table([TEACHER, better]), markdown_table([TEACHER, better])):
        assert table.splitlines()[-1].rstrip(" |").endswith("above the teacher")
        assert "105" not in table


def test_names_of_metrics_cannot_break_the_markdown_table():
    report = ModelReport("teacher", {"score": 0.5, "a|b\n| <b>": 0.25}, 1, 1.0, 1.0)
    head, rule, row = markdown_table([report]).splitlines()
    unescaped = [line.replace("\\|", "").count("|") for line in (head, rule, row)]
    assert len(set(unescaped)) == 1
    assert "<b>" not in head
