"""The benchmarks' own arithmetic, and one tiny run of each kind of step."""

import json
from functools import partial

import pytest
from helpers.small_runs import config

from benchmarks.end_to_end import Line, compare, table
from benchmarks.grid import BASE, SMALL, Cost, Model, cost_of, cost_record, fit, tables
from benchmarks.interval import SCHEDULES, WhileMoving, error, every, replay
from benchmarks.steps import KINDS, StepSetting, mean_step, measure, summary


def test_all_kinds_of_steps_take_turns():
    measured = measure(StepSetting(student_layers=2, batch=2, length=8), rounds=2)
    assert {kind: len(seconds) for kind, seconds in measured["seconds"].items()} == dict.fromkeys(KINDS, 2)
    figures = summary(measured, interval=8)
    wanted = {"measuring_step_ratio", "mean_step_ratio", "cached_step_ratio", "extra_memory_mb", "gradient_copy_mb"}
    assert wanted <= figures.keys()
    assert figures["gradient_copy_mb"] == pytest.approx(4e-6 * measured["parameters"])


def test_ratios_are_of_medians_to_the_fixed_step_with_the_teacher_online():
    seconds = {"online_measuring": [3.0, 9.0, 3.0], "online_fixed": [2.0] * 3}
    seconds |= {"cached_measuring": [2.0] * 3, "cached_fixed": [1.0] * 3}
    peaks = {"online_measuring": [70.0] * 3, "online_fixed": [50.0] * 3}
    setting = StepSetting().__dict__
    figures = summary({"setting": setting, "parameters": 10**6, "seconds": seconds, "peak_mb": peaks}, interval=4)
    assert figures["measuring_step_ratio"] == 1.5
    assert figures["measuring_step_ratio_range"] == [1.5, 4.5]
    assert figures["mean_step_ratio"] == (3 + 3 * 2) / 4 / 2
    assert figures["cached_step_ratio"] == (2 + 3 * 1) / 4 / 2
    assert (figures["extra_memory_mb"], figures["gradient_copy_mb"]) == (20.0, 4.0)


def test_a_step_that_always_measures_costs_what_it_costs():
    assert mean_step(3.0, 2.0, 1) == 3.0


@pytest.fixture(params=[SMALL, BASE], ids=["small", "base"])
def grid(request):
    return request.param


@pytest.fixture
def costs(grid):
    """What a machine would measure whose steps cost exactly what the model says."""
    true = Model(alpha=2e-6, beta=3e-9, step=0.03, measuring=0.01)

    def cost(setting):
        work = setting.batch * setting.length * (true.alpha + true.beta * setting.length)
        fixed = work * (3 * setting.student_layers + setting.teacher_layers) + true.step
        return Cost(setting, fixed, fixed + 2 * setting.student_layers * work + true.measuring)

    return true, {setting: cost(setting) for setting in grid.settings()}


def test_the_cost_model_finds_the_constants_and_predicts_the_ratios(costs):
    true, measured = costs
    found = fit(measured.values())
    assert found == pytest.approx(true, rel=1e-6)
    assert all(found.ratio(cost.setting) == pytest.approx(cost.ratio) for cost in measured.values())


@pytest.mark.parametrize("has_ranks", [True, False])
def test_the_tables_have_a_row_for_each_setting(grid, costs, has_ranks):
    _, measured = costs
    records = {setting: cost_record(cost) for setting, cost in measured.items()}
    ranks = records[grid.centre] if has_ranks else None
    size = "small" if grid is SMALL else "base"
    text = tables({"size": size, "hardware": "one machine", "costs": [*records.values()], "two_ranks": ranks})
    assert text.count("+0.0%") + text.count("-0.0%") == sum(map(len, grid.axes.values())) + 2 * has_ranks
    assert ("| 2, a core each" in text) == has_ranks
    assert "largest error of the predicted ratio, of one rank: 0.0%. Measured on one machine." in text


def test_a_cost_is_the_median_of_either_clock():
    measured = {"setting": SMALL.centre.__dict__}
    measured["seconds"] = {"online_fixed": [9.0, 1.0, 2.0], "online_measuring": [3.0, 3.0, 9.0]}
    measured["cpu_seconds"] = {"online_fixed": [1.0] * 3, "online_measuring": [1.5] * 3}
    assert cost_of(measured).ratio == 1.5
    assert cost_of(measured, "cpu_seconds") == Cost(SMALL.centre, 1.0, 1.5)


def test_the_table_compares_runs_of_the_same_seed_and_medians_over_seeds(tmp_path):
    for seed, speed in enumerate((1, 2, 2)):  # the machine is twice as fast from the second seed on
        peaks = {"fp32": 6e9 * speed, "bf16": 12e9 * speed}
        (tmp_path / f"gemm_peak-{seed}.json").write_text(json.dumps(peaks))
    for line, seconds in ((Line("ours"), [20, 10, 11]), (Line("ours", "bf16"), [5]), (Line("plain"), [40, 20])):
        for seed, taken in enumerate(seconds):
            figures = {"seconds": taken, "accuracy": 0.9, "real_tokens": 10**3, "precision": line.precision}
            figures["parameters"] = {"non_embedding": 10**6}
            (tmp_path / f"{line.label}-{seed}.json").write_text(json.dumps(figures))
    rows = table(tmp_path).splitlines()[2:]
    assert rows[0].startswith("| plain-fp32 | 2 | 30 (20–40) | 0.50 | 0.12 | 90.0 (90.0, 90.0) |")
    assert rows[1].startswith("| ours-fp32 | 3 | 11 (10–20) | 1.00 | 0.25 |")
    assert rows[1].endswith("| 5% |")  # of seed 0: 6·10⁶·10³ operations in 20 s, of 6·10⁹ a second
    assert rows[2].startswith("| ours-bf16 | 1 | 5 (5–5) |")


def test_a_run_without_seconds_counts_for_its_accuracy_alone(tmp_path):
    (tmp_path / "gemm_peak-0.json").write_text(json.dumps({"fp32": 1e9, "bf16": 1e9}))
    for line in (Line("ours"), Line("ours", "bf16")):
        for seed, figures in enumerate(({"seconds": 10, "accuracy": 0.8}, {"accuracy": 0.9})):
            record = {"real_tokens": 1, "precision": line.precision, "parameters": {"non_embedding": 1}, **figures}
            (tmp_path / f"{line.label}-{seed}.json").write_text(json.dumps(record))
    assert "| ours-fp32 | 1 | 10 (10–10) | 1.00 | 1.00 | 85.0 (80.0, 90.0) |" in table(tmp_path)


def test_runs_without_a_seed_in_common_have_no_ratio(tmp_path):
    for line, seed in ((Line("ours"), 0), (Line("ours", "bf16"), 0), (Line("plain"), 1)):
        figures = {"seconds": 1, "accuracy": 0.9, "real_tokens": 1, "precision": line.precision}
        (tmp_path / f"gemm_peak-{seed}.json").write_text(json.dumps({"fp32": 1e9, "bf16": 1e9}))
        (tmp_path / f"{line.label}-{seed}.json").write_text(json.dumps(figures | {"parameters": {"non_embedding": 1}}))
    assert "| plain-fp32 | 1 | 1 (1–1) | – | – |" in table(tmp_path)


GRAMS = [(4.0, 1.0, 0.5), (9.0, 1.0, -0.1), (1.0, 1.0, 0.2), (16.0, 1.0, 0.0)] * 3


def test_replaying_each_step_is_training_with_an_interval_of_one(tmp_path):
    whole = replay(GRAMS, config(tmp_path), every(1))
    assert whole.share == 1.0
    assert whole.lambdas[0] == pytest.approx(2.0)
    assert len(set(whole.lambdas)) > 3
    assert error(whole.lambdas, whole.lambdas) == 0.0


def test_between_measurements_lambda_stays(tmp_path):
    lambdas, share = replay(GRAMS, config(tmp_path), every(5))
    assert share == 0.25
    assert lambdas[0] == lambdas[4] != lambdas[5] == lambdas[9]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_measures_the_first_step(name):
    assert SCHEDULES[name]()(0, []) is True


def test_a_resting_lambda_is_measured_less_and_less(tmp_path):
    resting = partial(WhileMoving, 0.1, longest=4)
    lambdas, share = replay([(1.0, 1.0, 0.0)] * 40, config(tmp_path), resting())
    assert set(lambdas) == {1.0}
    assert share < 0.35


def test_trainings_of_another_length_are_not_mixed_in(tmp_path):
    (tmp_path / "gemm_peak-0.json").write_text('{"fp32": 1.0}')
    (tmp_path / "ours-fp32-0.json").write_text('{"examples": 6400, "epochs": 1}')
    with pytest.raises(ValueError, match="has 6400 examples and 1 epochs, but --examples is 6400 and --epochs is 3"):
        compare([], "glue", "quickstart", 6400, 3, [], tmp_path)
