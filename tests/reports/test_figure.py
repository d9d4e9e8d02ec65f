import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import imread

from hf_kd_lambda.reports.figure import LIMIT_COLORS, PANELS, moving_average, plot_lambda
from hf_kd_lambda.utils.log_keys import LIMITS, LOG_KEYS


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
def drawn(monkeypatch):
    """The figures that are drawn, to look into them after they were saved."""
    recorded = []

    class RecordedFigure(Figure):
        def savefig(self, *args, **kwargs):
            recorded.append(self)
            super().savefig(*args, **kwargs)

    monkeypatch.setattr("hf_kd_lambda.reports.figure.Figure", RecordedFigure)
    return recorded


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def line(axes, label):
    return next(drawn for drawn in axes.lines if drawn.get_label() == label)


def test_figure_has_a_panel_for_each_quantity_over_optimizer_steps(tmp_path, drawn):
    path = plot_lambda(training_log(20), tmp_path / "lambda.png", title="My run")
    assert path == tmp_path / "lambda.png"
    assert imread(path).shape[:2] == (1200, 1200)
    panels = drawn[0].axes
    assert [panel.get_ylabel() for panel in panels] == ["λ", "loss", "gradient norm", "cosine"]
    assert [panel.get_yscale() for panel in panels] == ["log", "linear", "log", "linear"]
    assert labels(panels[0]) == ["λ"], "the KD weight would have another scale"
    assert panels[-1].get_xlabel() == "optimizer step"
    assert drawn[0].get_suptitle() == "My run"
    assert list(line(panels[0], "λ").get_xdata()) == list(range(1, 21)), "entries of evaluations are no steps"
    assert line(panels[1], "KD loss").get_ydata()[1] == 1.0


@pytest.mark.parametrize("cosine", [0.9, -0.4])
def test_conflict_is_marked_below_zero(tmp_path, drawn, cosine):
    plot_lambda(training_log(20, grad_cosine=cosine), tmp_path / "lambda.png")
    panel = drawn[0].axes[-1]
    low, high = panel.get_ylim()
    assert low < min(cosine, 0) <= max(cosine, 0) < high
    assert low <= -0.3 * high, "a band that can be seen, though no step was in conflict"
    assert labels(panel)[-1].startswith("conflict")
    assert panel.patches[0].get_extents().ymax == pytest.approx(panel.transData.transform((0, 0))[1])


@pytest.mark.parametrize("factor", [1.01, 1.5, 4.0, 30.0, 1e4])
def test_log_scales_have_ticks_whatever_their_range(tmp_path, drawn, factor):
    log = training_log(20)
    for entry in log[:20]:
        entry["grad_norm_task"], entry["grad_norm_kd"] = 0.7, 0.7 * factor
    plot_lambda(log, tmp_path / "lambda.png")
    panel = drawn[0].axes[2]
    low, high = panel.get_ylim()
    shown = [tick for tick in panel.get_yticks() if low <= tick <= high]
    assert 2 <= len(shown) <= 8
    assert len({tick.get_text() for tick in panel.get_yticklabels()}) == len(panel.get_yticks()), "labels differ"


def test_fixed_rule_leaves_out_the_gradient_panels(tmp_path, drawn):
    log = [{key: value for key, value in entry.items() if "grad_" not in key} for entry in training_log(20)]
    plot_lambda(log, tmp_path / "lambda.png")
    assert [panel.get_ylabel() for panel in drawn[0].axes] == ["λ", "loss"]


def test_values_that_cannot_be_drawn_are_masked(tmp_path, drawn):
    log = training_log(20)
    log[3]["lambda"], log[4]["task_loss"], log[5]["grad_norm_kd"] = math.inf, math.nan, 0.0
    plot_lambda(log, tmp_path / "lambda.png")
    panels = drawn[0].axes
    for panel, label, masked in ((panels[0], "λ", 3), (panels[1], "task loss", 4), (panels[2], "KD gradient", 5)):
        assert [i for i, value in enumerate(line(panel, label).get_ydata()) if math.isnan(value)] == [masked]


def test_zero_lambda_leaves_out_the_panel_on_a_log_scale(tmp_path, drawn):
    plot_lambda(training_log(20, kd_weight=0.0, **{"lambda": 0.0}), tmp_path / "lambda.png")
    assert [panel.get_ylabel() for panel in drawn[0].axes] == ["loss", "gradient norm", "cosine"]


def test_keys_logged_at_some_steps_only_make_an_unbroken_line(tmp_path, drawn):
    log = training_log(20)
    for entry in log[1:20:2]:
        del entry["grad_cosine"]
    plot_lambda(log, tmp_path / "lambda.png")
    assert list(line(drawn[0].axes[-1], "cosine of the two gradients").get_xdata()) == list(range(1, 21, 2))


def test_long_logs_show_a_moving_average_over_the_raw_line(tmp_path, drawn):
    log = training_log(200)
    for step, entry in enumerate(log[:200]):
        entry["lambda"], entry["kd_loss"] = 4.0 ** (-1) ** step, 3.0 + (-1) ** step
    plot_lambda(log, tmp_path / "lambda.png")
    panel = drawn[0].axes[0]
    raw, average = panel.lines[0].get_ydata(), line(panel, "λ").get_ydata()
    assert raw.min() == 0.25
    assert average[20:-20] == pytest.approx(1.0, rel=0.2), "λ and 1/λ average to 1 on a log scale"
    assert line(drawn[0].axes[1], "KD loss").get_ydata()[20:-20] == pytest.approx(3.0, rel=0.1)
    assert "moving average" in drawn[0].axes[-1].get_xlabel()


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ([], "No step was logged: lower logging_steps"),
        ([{"step": 5, "eval_loss": 0.4}], "No step was logged: lower logging_steps"),
        ([{"step": 5, "task_loss": 0.4}], "no finite λ was logged"),
        ([{"step": 5, "task_loss": 0.4, "lambda": math.inf}], "no finite λ was logged"),
        ([{"step": 5, "task_loss": 0.4, "lambda": 0.0, "kd_weight": 0.0}], "it was 0 at every logged step"),
    ],
)
def test_figure_says_why_it_is_without_lambda(tmp_path, drawn, log, message):
    plot_lambda(log, tmp_path / "lambda.png", title="My run")
    title, reason = drawn[0].get_suptitle().splitlines()
    assert title == "My run"
    assert message in reason


def test_figure_draws_documented_keys_and_every_limit():
    drawn = {line.key for lines in PANELS.values() for line in lines}
    assert drawn <= LOG_KEYS.keys()
    assert LIMIT_COLORS.keys() == LIMITS.keys()
    assert len(set(LIMIT_COLORS.values())) == len(LIMITS)


def test_moving_average_leaves_out_nan():
    values = np.ones(100)
    values[10], values[60:80] = math.nan, math.nan
    average = moving_average(values)
    assert average[10] == pytest.approx(1.0)
    assert average[0] == pytest.approx(1.0), "the mean at the ends is of fewer values, not of zeros"
    assert math.isnan(average[70])


def with_shares(log, **shares):
    """The log with shares of the measurements; what is not given limited λ in none of them."""
    keys = {name: limit.key for name, limit in LIMITS.items()} | {"conflict": "lambda_conflict"}
    logged = {key: shares.get(name, 0.0) for name, key in keys.items()}
    return [entry | logged if "lambda" in entry else entry for entry in log]


def with_layers(log, **lambdas):
    given = {f"lambda/{name.replace('_', '.')}": value for name, value in lambdas.items()}
    return [entry | given if "lambda" in entry else entry for entry in log]


def area(axes, label):
    return next(stack for stack in axes.collections if stack.get_label() == label).get_paths()[0]


def test_strip_shows_what_limited_lambda_over_the_steps_that_each_log_covers(tmp_path, drawn):
    log = [{"step": 10, "lambda": 1.0}, {"step": 30, "lambda": 1.0}]
    log = with_shares(log[:1], clipped=0.25, free=0.75) + with_shares(log[1:], clipped=0.5, floor=0.5, conflict=0.9)
    plot_lambda(log, tmp_path / "lambda.png")
    panel = drawn[0].axes[1]
    assert panel.get_ylabel() == "what limited λ"
    clipped, floor, free, conflict = labels(panel)
    assert clipped == "clipped, so that neither loss increases"
    assert floor == "at lambda_min"
    assert free == "set by the rule alone"
    assert conflict == "losses in conflict"
    inside = {
        (9, 0.2): clipped,
        (9, 0.3): free,
        (1, 0.9): free,
        (11, 0.45): clipped,
        (11, 0.55): floor,
        (29, 0.9): floor,
    }
    for point, limit in inside.items():
        assert [name for name in (clipped, floor, free) if area(panel, name).contains_point(point)] == [limit]
    assert list(line(panel, conflict).get_xdata()) == [0, 10, 30]
    assert list(line(panel, conflict).get_ydata()) == [0.0, 0.0, 0.9]
    assert line(panel, conflict).get_drawstyle() == "steps-pre"
    assert [text.get_text() for text in panel.get_yticklabels()] == ["0%", "50%", "100%"]


def test_strip_begins_where_shares_were_first_logged(tmp_path, drawn):
    log = training_log(20)
    plot_lambda(log[:9] + with_shares(log[9:], free=1.0), tmp_path / "lambda.png")
    panel = drawn[0].axes[1]
    assert labels(panel) == ["set by the rule alone", "losses in conflict"]
    assert list(line(panel, "losses in conflict").get_xdata()) == list(range(9, 21))


def test_shares_of_a_long_log_are_averaged_and_still_fill_the_strip(tmp_path, drawn):
    log = training_log(200)
    log = [with_shares([entry], **{("slowed", "free")[step % 2]: 1.0})[0] for step, entry in enumerate(log)]
    plot_lambda(log, tmp_path / "lambda.png")
    slowed, free = (area(drawn[0].axes[1], name) for name in ("slowed by lambda_max_change", "set by the rule alone"))
    assert all(slowed.contains_point((step, 0.4)) and free.contains_point((step, 0.6)) for step in range(5, 195))
    assert free.vertices[:, 1].max() == pytest.approx(1.0)


@pytest.mark.parametrize("share", [0.0, math.nan])
def test_shares_of_nothing_leave_out_the_strip(tmp_path, drawn, share):
    plot_lambda(with_shares(training_log(20), free=share), tmp_path / "lambda.png")
    assert [panel.get_ylabel() for panel in drawn[0].axes][:2] == ["λ", "loss"]


def test_layers_make_a_heat_map_from_input_to_output(tmp_path, drawn):
    log = with_layers(training_log(20), head=8.0, layer_10=4.0, layer_2=2.0, embeddings=1.0)
    log[4]["lambda/head"] = math.nan
    plot_lambda(log, tmp_path / "lambda.png")
    panel = drawn[0].axes[1]
    assert panel.get_title(loc="left") == "λ by layer"
    assert [text.get_text() for text in panel.get_yticklabels()] == ["embeddings", "layer.2", "layer.10", "head"]
    assert panel.yaxis_inverted(), "the input is on top"
    (mesh,) = panel.collections
    values = mesh.get_array()
    assert values[:, 0].tolist() == [1.0, 2.0, 4.0, 8.0]
    assert np.argwhere(np.ma.getmaskarray(values)).tolist() == [[3, 4]]
    assert mesh.get_coordinates()[0, :, 0].tolist() == list(range(21))
    assert isinstance(mesh.norm, LogNorm)
    assert mesh.norm.vmin == pytest.approx(1.0, rel=0.02)
    assert mesh.norm.vmax == pytest.approx(8.0, rel=0.02)
    (bar,) = panel.child_axes
    assert bar.get_xlim() == (mesh.norm.vmin, mesh.norm.vmax)
    assert set(bar.get_xticks()) >= {2.0, 3.0, 5.0}


def test_heat_map_of_a_lambda_for_each_kd_loss_says_so(tmp_path, drawn):
    log = [entry | {"lambda/soft_targets": 1.0, "lambda/hidden_mse": 0.5} for entry in training_log(5)]
    plot_lambda(log, tmp_path / "lambda.png")
    panel = drawn[0].axes[1]
    assert panel.get_title(loc="left") == "λ by KD loss"
    assert [text.get_text() for text in panel.get_yticklabels()] == ["hidden_mse", "soft_targets"]


def test_heat_map_of_a_single_value_has_a_colour_scale(tmp_path, drawn):
    plot_lambda(with_layers(training_log(5), layer_0=1.0, layer_1=1.0), tmp_path / "lambda.png")
    (mesh,) = drawn[0].axes[1].collections
    assert mesh.norm.vmin < 1.0 < mesh.norm.vmax


def test_heat_map_of_many_layers_names_some_of_them(tmp_path, drawn):
    plot_lambda(with_layers(training_log(5), **{f"layer_{n}": 1.0 for n in range(80)}), tmp_path / "lambda.png")
    panel = drawn[0].axes[1]
    assert [text.get_text() for text in panel.get_yticklabels()] == [f"layer.{n}" for n in range(0, 80, 3)]
    assert len(panel.collections[0].get_array()) == 80


def test_signal_smoothness_and_odds_have_panels_where_they_were_logged(tmp_path, drawn):
    logged = {"snr_task": 0.1, "snr_kd": 0.4, "smoothness_task": 0.5, "smoothness_kd": 0.2, "odds": 3.0}
    plot_lambda(training_log(20, **logged), tmp_path / "lambda.png")
    signal, smoothness, odds = drawn[0].axes[4:]
    assert [panel.get_ylabel() for panel in (signal, smoothness, odds)] == ["signal / noise", "smoothness", "odds"]
    assert {panel.get_yscale() for panel in (signal, smoothness, odds)} == {"log"}
    assert line(signal, "of the KD gradient").get_ydata()[0] == 0.4
    assert line(smoothness, "s of the task loss").get_ydata()[0] == 0.5
    assert odds.lines[0].get_ydata()[0] == 3.0
    assert odds.lines[1].get_ydata() == [1, 1], "even odds are marked"


def test_reliabilities_have_a_panel(tmp_path, drawn):
    plot_lambda(training_log(20, label_reliability=0.7, teacher_reliability=0.9), tmp_path / "lambda.png")
    panel = drawn[0].axes[-1]
    assert (panel.get_ylabel(), panel.get_yscale()) == ("reliability", "linear")
    assert line(panel, "α of the labels").get_ydata()[0] == 0.7
    assert line(panel, "β of the teacher").get_ydata()[0] == 0.9
    assert len(panel.lines) == 2


def test_each_of_several_teachers_has_a_line(tmp_path, drawn):
    reliabilities = {f"teacher_reliability_{index}": index / 10 for index in (10, 9, 8)}
    plot_lambda(
        training_log(20, label_reliability=0.7, teacher_reliability=0.9, **reliabilities), tmp_path / "lambda.png"
    )
    lines = [line(drawn[0].axes[-1], f"β of teacher {index}") for index in (1, 2, 3)]
    assert [one.get_ydata()[0] for one in lines] == [0.8, 0.9, 1.0]
    assert len({one.get_linestyle() for one in lines}) == 3


@pytest.mark.parametrize("steps", [10, 2000])
def test_nothing_overlaps_and_nothing_is_cut_off(tmp_path, drawn, steps):
    logged = {"snr_task": 0.1, "snr_kd": 0.4, "smoothness_task": 0.5, "smoothness_kd": 0.2, "odds": 3.0}
    log = with_shares(training_log(steps, **logged), conflict=0.5, **dict.fromkeys(LIMITS, 1 / 7))
    plot_lambda(with_layers(log, embeddings=0.5, layer_0=1.0, head=2.0), tmp_path / "lambda.png")
    figure = drawn[0]
    boxes = [panel.get_tightbbox() for panel in figure.axes]
    assert len(boxes) == 9
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    assert all(below.y1 <= above.y0 + 1 for above, below in pairwise(boxes))
    assert len({(panel.bbox.x0, panel.bbox.x1) for panel in figure.axes}) == 1, "all panels share their steps"
