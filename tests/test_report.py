import json
import math

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from safetensors import safe_open
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from hf_kd_lambda import report
from hf_kd_lambda.report import ModelReport, measure_model, moving_average, plot_lambda, results_table, write_results

TEACHER = ModelReport("teacher", {"accuracy": 0.9, "f1": 0.8}, 22_700_000, 90.8, 12.34)
STUDENT = ModelReport("student with KD", {"accuracy": 0.855, "f1": 0.7}, 15_600_000, 62.4, 4.56)


def training_log(steps, **changes):
    """A log as the Trainer writes it, one entry a step, with an evaluation and the summary at its end."""
    entries = [
        {
            "step": step,
            "loss": 1.0,
            "lambda": 1.0 + step / steps,
            "kd_weight": 0.5,
            "task_loss": 1 / step,
            "kd_loss": 2 / step,
            "grad_norm_task": 1.0,
            "grad_norm_kd": 0.5,
            "grad_cosine": 1 - 1.5 * step / steps,
        }
        | changes
        for step in range(1, steps + 1)
    ]
    return [*entries, {"step": steps, "eval_loss": 0.4}, {"step": steps, "train_runtime": 3.0}]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, to look into them after they were saved."""
    drawn = []

    class RecordedFigure(Figure):
        def savefig(self, *args, **kwargs):
            drawn.append(self)
            super().savefig(*args, **kwargs)

    monkeypatch.setattr(report, "Figure", RecordedFigure)
    return drawn


@pytest.fixture
def bert():
    config = BertConfig(vocab_size=2000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_labels=3)
    return BertForSequenceClassification(config)


@pytest.fixture
def example():
    return {"input_ids": torch.arange(8)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes, label):
    return next(drawn for drawn in axes.lines if drawn.get_label() == label)


def test_figure_has_a_panel_for_each_quantity_over_optimizer_steps(tmp_path, figures):
    path = plot_lambda(training_log(20), tmp_path / "lambda.png", title="My run")
    assert path == tmp_path / "lambda.png"
    assert imread(path).shape[:2] == (1200, 1200)
    panels = figures[0].axes
    assert [panel.get_ylabel() for panel in panels] == ["λ", "loss", "gradient norm", "cosine"]
    assert [panel.get_yscale() for panel in panels] == ["log", "linear", "log", "linear"]
    assert labels(panels[0]) == ["λ", "KD weight"]
    assert panels[-1].get_xlabel() == "optimizer step"
    assert figures[0].get_suptitle() == "My run"
    assert list(line(panels[0], "λ").get_xdata()) == list(range(1, 21)), "entries of evaluations are no steps"
    assert line(panels[1], "KD loss").get_ydata()[1] == 1.0


@pytest.mark.parametrize("cosine", [0.9, -0.4])
def test_conflict_is_marked_below_zero(tmp_path, figures, cosine):
    plot_lambda(training_log(20, grad_cosine=cosine), tmp_path / "lambda.png")
    panel = figures[0].axes[-1]
    low, high = panel.get_ylim()
    assert low < min(cosine, 0) <= max(cosine, 0) < high
    assert low <= -0.3 * high, "a band that can be seen, though no step was in conflict"
    assert labels(panel)[-1].startswith("conflict")
    assert panel.patches[0].get_extents().ymax == pytest.approx(panel.transData.transform((0, 0))[1])


def test_fixed_rule_leaves_out_the_gradient_panels(tmp_path, figures):
    log = [{key: value for key, value in entry.items() if "grad_" not in key} for entry in training_log(20)]
    plot_lambda(log, tmp_path / "lambda.png")
    assert [panel.get_ylabel() for panel in figures[0].axes] == ["λ", "loss"]


def test_values_that_cannot_be_drawn_are_masked(tmp_path, figures):
    log = training_log(20)
    log[3]["lambda"], log[4]["task_loss"], log[5]["grad_norm_kd"] = math.inf, math.nan, 0.0
    plot_lambda(log, tmp_path / "lambda.png")
    panels = figures[0].axes
    for panel, label, masked in ((panels[0], "λ", 3), (panels[1], "task loss", 4), (panels[2], "KD gradient", 5)):
        assert [i for i, value in enumerate(line(panel, label).get_ydata()) if math.isnan(value)] == [masked]


def test_zero_lambda_leaves_out_the_panel_on_a_log_scale(tmp_path, figures):
    plot_lambda(training_log(20, kd_weight=0.0, **{"lambda": 0.0}), tmp_path / "lambda.png")
    assert [panel.get_ylabel() for panel in figures[0].axes] == ["loss", "gradient norm", "cosine"]


def test_keys_logged_at_some_steps_only_make_an_unbroken_line(tmp_path, figures):
    log = training_log(20)
    for entry in log[1:20:2]:
        del entry["grad_cosine"]
    plot_lambda(log, tmp_path / "lambda.png")
    assert list(line(figures[0].axes[-1], "cosine of the two gradients").get_xdata()) == list(range(1, 21, 2))


def test_long_logs_show_a_moving_average_over_the_raw_line(tmp_path, figures):
    log = training_log(200)
    for step, entry in enumerate(log[:200]):
        entry["lambda"], entry["kd_loss"] = 4.0 ** (-1) ** step, 3.0 + (-1) ** step
    plot_lambda(log, tmp_path / "lambda.png")
    panel = figures[0].axes[0]
    raw, average = panel.lines[0].get_ydata(), line(panel, "λ").get_ydata()
    assert raw.min() == 0.25
    assert average[20:-20] == pytest.approx(1.0, rel=0.2), "λ and 1/λ average to 1 on a log scale"
    assert line(figures[0].axes[1], "KD loss").get_ydata()[20:-20] == pytest.approx(3.0, rel=0.1)
    assert "moving average" in figures[0].axes[-1].get_xlabel()


def test_log_without_training_entries_says_so(tmp_path, figures):
    assert plot_lambda([{"step": 5, "eval_loss": 0.4}], tmp_path / "lambda.png").exists()
    assert "logging_steps" in figures[0].get_suptitle()


def test_moving_average_leaves_out_nan():
    values = torch.ones(100).numpy()
    values[10], values[60:80] = math.nan, math.nan
    average = moving_average(values)
    assert average[10] == pytest.approx(1.0)
    assert average[0] == pytest.approx(1.0), "the mean at the ends is of fewer values, not of zeros"
    assert math.isnan(average[70])


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


def test_latency_is_the_median_of_timed_forwards_in_milliseconds(monkeypatch, bert, example):
    # Each forward advances the clock by its own number of seconds; the warm-up runs are slow and do not count.
    clock = iter(
        tick for run in range(35) for tick in (1000.0 * run, 1000.0 * run + (500.0 if run < 5 else 0.001 * (run - 4)))
    )
    monkeypatch.setattr(report.time, "perf_counter", lambda: next(clock))
    measured = measure_model("teacher", bert, {}, example)
    assert measured.latency_ms == pytest.approx(15.5)
    assert next(clock, None) is None, "30 timed forwards after 5 of warm-up"


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
    assert TEACHER.retained(reports, "accuracy") == 1.0
    assert STUDENT.retained(reports, "accuracy") == pytest.approx(0.95)
    assert STUDENT.retained(reports, "f1") == pytest.approx(0.875)


@pytest.mark.parametrize("score", [0.0, -0.1, math.nan])
def test_nothing_is_retained_of_a_teacher_without_a_positive_score(score):
    teacher = ModelReport("teacher", {"matthews_correlation": score}, 1, 1.0, 1.0)
    student = ModelReport("student with KD", {"matthews_correlation": 0.5}, 1, 1.0, 1.0)
    assert student.retained([teacher, student], "matthews_correlation") is None
    assert student.retained([student], "matthews_correlation") is None


def test_results_table_is_aligned_and_in_percent():
    assert results_table([TEACHER, STUDENT], "f1").splitlines() == [
        "model            f1 (%)  accuracy (%)  parameters (M)  size (MB)  latency (ms)  retained (%)",
        "--------------------------------------------------------------------------------------------",
        "teacher            80.0          90.0            22.7       90.8          12.3         100.0",
        "student with KD    70.0          85.5            15.6       62.4           4.6          87.5",
    ]


def test_results_table_shows_a_dash_for_what_is_missing():
    student = ModelReport("student with KD", {"accuracy": math.nan}, 1, 1.0, 1.0)
    row = results_table([TEACHER, student], "accuracy").splitlines()[-1]
    assert row.split()[3:] == ["–", "–", "0.0", "1.0", "1.0", "–"]


def test_results_are_valid_json(tmp_path):
    broken = ModelReport("student without KD", {"accuracy": math.nan, "f1": 0.1}, 1, 1.0, 1.0)
    extra = {"task": "sst2", "versions": {"torch": "2.11"}, "loss": [math.inf, 1.0], "teacher_dir": tmp_path}
    path = tmp_path / "results.json"
    write_results(path, [TEACHER, broken, STUDENT], "accuracy", tmp_path / "lambda.png", extra)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    results = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert results["models"][0] == {
        "name": "teacher",
        "metrics": {"accuracy": 0.9, "f1": 0.8},
        "parameters": 22_700_000,
        "megabytes": 90.8,
        "latency_ms": 12.34,
        "retained": 1.0,
    }
    assert results["models"][1]["metrics"] == {"accuracy": None, "f1": 0.1}
    assert results["models"][1]["retained"] is None
    assert results["models"][2]["retained"] == pytest.approx(0.95)
    assert results["main_metric"] == "accuracy"
    assert results["figure"] == str(tmp_path / "lambda.png")
    assert results["task"] == "sst2"
    assert results["versions"] == {"torch": "2.11"}
    assert results["loss"] == [None, 1.0]
    assert results["teacher_dir"] == str(tmp_path)


def test_results_are_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(path, [TEACHER], "accuracy", tmp_path / "lambda.png", {})
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"
    before = path.read_text(encoding="utf-8")

    def killed(source, target):
        assert json.loads(source.read_text(encoding="utf-8"))["main_metric"] == "f1", "complete before it replaces"
        assert source.parent == target.parent, "a rename across file systems is not atomic"
        raise KeyboardInterrupt

    monkeypatch.setattr(report.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_results(path, [TEACHER, STUDENT], "f1", tmp_path / "lambda.png", {})
    assert path.read_text(encoding="utf-8") == before
