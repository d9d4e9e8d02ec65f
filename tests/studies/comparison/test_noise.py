"""Which scores differ by more than chance."""

import math
from dataclasses import replace

import pytest
from helpers.compared_runs import failed, made_up_run, whole_grid

from hf_kd_lambda.studies.comparison.merit import Group
from hf_kd_lambda.studies.comparison.noise import MeanScore, error_over_examples, score_of, within_noise
from hf_kd_lambda.studies.comparison.tables import noise_table, scores_table, undecided, weak_teachers

GROUP = Group("t", "r")


def test_the_error_of_a_mean_is_of_seeds_and_examples():
    runs = [made_up_run("a", seed, score) for seed, score in enumerate((0.70, 0.72, 0.74))]
    score = score_of(runs, GROUP, "a")
    assert (score.mean, score.seeds) == (pytest.approx(72), 3)
    assert score.error == pytest.approx(math.hypot(2 / math.sqrt(3), 1.0))
    assert score.interval[0] < 72 < score.interval[1]
    unknown = [replace(run, standard_error=None) for run in runs]
    assert score_of(unknown, GROUP, "a").error == pytest.approx(2 / math.sqrt(3))
    assert error_over_examples(unknown) is None
    assert score_of([failed(runs[0])], GROUP, "a") is None


def test_rules_within_two_errors_of_the_best_are_level():
    scores = {name: MeanScore(mean, None, 1.0, 3) for name, mean in (("a", 78.0), ("b", 80.0), ("c", 77.9))}
    assert within_noise(scores) == ["b", "a"]
    assert within_noise({"a": MeanScore(78.0, None, 0.0, 1), "b": MeanScore(80.0, None, 0.0, 1)}) == ["b"]


def test_a_teacher_below_the_students_is_named():
    runs = whole_grid()
    weak = [replace(run, teacher_score=0.6 if run.task == "t" else 0.99) for run in runs]
    (note,) = weak_teachers(weak)
    assert note.startswith("The teacher scores below the best students in: t, r; t, s. ")
    assert [entry.text for entry in scores_table(weak).rows[-1]] == ["(teacher)", "60.00", "60.00", "99.00", "99.00"]
    assert weak_teachers([replace(run, teacher_score=None) for run in runs]) == []
    assert note.endswith(" A better teacher would help more.")
    finetuned = [replace(run, settings=run.settings | {"teacher_finetune": True}) for run in weak]
    assert "(teacher_epochs, teacher_learning_rate)" in weak_teachers(finetuned)[0]
    assert weak_teachers([replace(run, regime="noisy_teacher") for run in weak]) == []


def test_groups_in_which_all_rules_are_level_are_named():
    level = [made_up_run(rule, seed, 0.98) for rule in ("low", "high") for seed in (0, 1)]
    (note,) = undecided([*level, made_up_run("low", 0, 0.9, task="u"), made_up_run("high", 0, 0.5, task="u")])
    assert note.startswith("All rules are within noise in: t, r. ")
    assert [[entry.strong for entry in row] for row in scores_table(level).rows[:2]] == [[False, True]] * 2
    assert undecided(whole_grid()) == []
    (note,) = undecided([replace(run, regime="clean") for run in level])
    assert note.startswith("All rules are within noise in: t. ")


def test_the_tables_begin_with_scores_and_say_what_is_noise():
    runs = whole_grid()
    scores = scores_table(runs)
    assert scores.head == ["rule", "t, r", "t, s", "u, r", "u, s"]
    high = next(row for row in scores.rows if row[0].text == "high")
    assert high[1].text.startswith("75.50 [")
    strong = [[entry.strong for entry in row] for row in scores.rows]
    assert strong[scores.rows.index(high)] == [False, True, False, True, False]
    first = [entry.text for entry in noise_table(runs).rows[0]]
    assert first == ["t, r", "1,000", "1.00", "high", "adaptive"]
    unknown = noise_table([replace(run, standard_error=None) for run in runs]).rows[0]
    assert [entry.text for entry in unknown] == ["t, r", "1,000", "–", "high", "–"]
