import dataclasses
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_jobs, tiny_images
from helpers.compared_runs import made_up_run
from helpers.tiny import save_checkpoint, tiny_bert

from hf_kd_lambda.jobs.errors import TrainingStoppedError
from hf_kd_lambda.jobs.lock import locked
from hf_kd_lambda.studies.comparison import runs
from hf_kd_lambda.studies.comparison.compare import command_of, compare, main
from hf_kd_lambda.studies.comparison.plan import Comparison
from hf_kd_lambda.studies.comparison.run_results import FILE, Cell, append_run, read_runs
from hf_kd_lambda.studies.comparison.runs import RunCurve, TaskRuns, in_regime

CONFIGS = Path(__file__).parents[3] / "configs"
RULES = {
    "no KD": {"lambda_rule": "fixed", "kd_weight": 0.0},
    "half": {"lambda_rule": "fixed", "kd_weight": 0.5},
    "adaptive": {"lambda_rule": "adaptive"},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return small_jobs.settings(tmp_path_factory.mktemp("job"), **small_jobs.SET_BY_COMPARISON)


@pytest.fixture
def comparison(settings, tmp_path):
    return Comparison(
        output_dir=str(tmp_path / "comparison"),
        tasks={"reviews": settings},
        rules=RULES,
        regimes={"clean": {}, "noisy_labels": {}},
        seeds=(0, 1),
        evaluations=3,
        logs=4,
    )


def runs_of(comparison):
    return {run.cell: run for run in read_runs(Path(comparison.output_dir) / FILE)}


def test_all_runs_are_made_and_recorded(comparison, capsys):
    compare(comparison)
    runs = runs_of(comparison)
    assert list(runs) == comparison.cells()
    for run in runs.values():
        assert run.error is None
        assert run.score == run.evaluations[-1]["score"] == run.metrics["score"]
        assert run.evaluations[-1]["step"] == run.steps == 12
        assert 0 < run.evaluations[0]["seconds"] < run.evaluations[-1]["seconds"] == run.seconds
        assert len(run.evaluations) == 3
        assert [entry["step"] for entry in run.log] == [3, 6, 9, 12]
        assert run.settings["seed"] == run.seed
        assert "teacher_dir" not in run.settings
    measured = {name for entry in runs[Cell("reviews", "clean", "adaptive", 0)].log for name in entry}
    assert measured >= {"lambda", "grad_cosine", "lambda_conflict"}
    assert runs[Cell("reviews", "clean", "half", 0)].log[-1]["lambda"] == pytest.approx(1)
    assert "[12/12] reviews, noisy_labels, adaptive, seed 1: " in capsys.readouterr().out


def test_a_killed_comparison_goes_on_where_it_was(comparison):
    part = comparison.restricted_to(rules=["half"], seeds=[0])
    compare(part)
    before = runs_of(comparison)
    compare(comparison.restricted_to(rules=["half", "no KD"], seeds=[0]))
    after = runs_of(comparison)
    assert len(after) == 4
    assert {cell: after[cell] for cell in before} == before  # their seconds among it: they were not made again


@pytest.mark.parametrize("rule", ["half", "adaptive"])
def test_runs_of_other_settings_are_not_mixed_in(comparison, rule):
    compare(comparison.restricted_to(rules=["half"], regimes=["clean"], seeds=[0]))
    changed = dataclasses.replace(comparison, settings={}, regimes={"clean": {"learning_rate": 5e-3}})
    with pytest.raises(
        ValueError,
        match=r"clean, half, 0 with learning_rate: 0\.002, but this command has learning_rate: 0\.005: choose",
    ):
        compare(changed.restricted_to(rules=[rule], seeds=[1]))


def test_runs_of_another_precision_are_joined(comparison):
    compare(comparison.restricted_to(rules=["half"], regimes=["clean"], seeds=[0]))
    file = Path(comparison.output_dir) / FILE
    file.write_text(file.read_text().replace('"precision": "fp32"', '"precision": "bf16"'))
    compare(comparison.restricted_to(rules=["half"], regimes=["clean"]))
    assert [run.settings["precision"] for run in runs_of(comparison).values()] == ["bf16", "fp32"]


def test_runs_of_another_number_of_processes_are_not_mixed_in(comparison):
    part = comparison.restricted_to(rules=["half"], regimes=["clean"], seeds=[0])
    compare(part)
    file = Path(comparison.output_dir) / "results.jsonl"
    file.write_text(file.read_text().replace('"num_processes": 1', '"num_processes": 2'))
    with pytest.raises(ValueError, match="half, 0 with num_processes: 2, but this command has num_processes: 1:"):
        compare(part)


def test_runs_of_other_evaluations_or_another_teacher_are_not_mixed_in(comparison, monkeypatch):
    part = comparison.restricted_to(rules=["half"], regimes=["clean"])
    compare(part.restricted_to(seeds=[0]))
    for name, given, other in (("evaluations", 3, 2), ("logs", 4, 5)):
        differing = f"reviews, clean, half, 0 with {name}: {given}, but this command has {name}: {other}: choose"
        with pytest.raises(ValueError, match=differing):
            compare(dataclasses.replace(part, **{name: other}))
    own = runs_of(comparison)[Cell("reviews", "clean", "half", 0)].teacher_score
    monkeypatch.setattr(TaskRuns, "teacher_score", own - 0.01)
    with pytest.raises(ValueError, match=rf"that scores {100 * own:.2f}, .* scores {100 * own - 1:.2f}: restore"):
        compare(part)


def test_a_setting_that_a_run_does_not_record_was_at_its_default(comparison):
    part = comparison.restricted_to(rules=["half"], regimes=["clean"], seeds=[0])
    compare(part)
    file = Path(comparison.output_dir) / FILE
    written = file.read_text().replace('"freeze_embeddings": false, ', "").replace('"num_processes": 1', '"old": null')
    assert len(written) < len(file.read_text()) - 30
    file.write_text(written)
    compare(part)
    assert file.read_text() == written
    with pytest.raises(ValueError, match="half, 0 with freeze_embeddings: its default, but this command has"):
        compare(dataclasses.replace(part, settings={"freeze_embeddings": True}))


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_runs_of_a_model_that_was_replaced_in_its_folder_are_not_mixed_in(comparison, tmp_path, who):
    settings = small_jobs.settings(tmp_path, **small_jobs.SET_BY_COMPARISON)
    model = Path(settings["teacher"])
    if who == "student":
        model = shutil.copytree(model, tmp_path / "student")
        settings |= {"student": str(model), "student_layers": None}
    changed = dataclasses.replace(comparison, tasks={"reviews": settings})
    part = changed.restricted_to(rules=["half"], regimes=["clean"], seeds=[0])
    compare(part)
    save_checkpoint(tiny_bert(num_labels=2), model)
    with pytest.raises(ValueError, match=rf"half, 0 with content of {who}: \['.*'\], but this command has content of"):
        compare(part.restricted_to(seeds=[1]))


@pytest.mark.parametrize("split", ["train", "test"])
def test_runs_on_other_examples_are_not_mixed_in(comparison, split):
    part = comparison.restricted_to(rules=["half"], regimes=["clean"], seeds=[0])
    compare(part)
    examples = Path(part.tasks["reviews"][f"{split}_file"])
    lines = examples.read_text().splitlines()
    changed = Path(comparison.output_dir) / examples.name
    changed.write_text("\n".join([*lines[:-1], lines[-1].replace("worst", "dull")]) + "\n")
    tasks = {"reviews": part.tasks["reviews"] | {f"{split}_file": str(changed)}}
    with pytest.raises(ValueError, match=f"half, 0 with {split} examples: .*, but this command has {split} examples:"):
        compare(dataclasses.replace(part, tasks=tasks))


def test_a_folder_that_stands_in_for_glue_is_recorded_as_glue(comparison):
    task = TaskRuns(comparison, "reviews")
    cell = Cell("reviews", "clean", "half", 0)
    assert task.begun(cell).settings["dataset"] is None, "these are files"
    task.job.settings["dataset"] = "a/folder"
    assert task.begun(cell).settings["dataset"] == "a/folder"
    task.comparison = dataclasses.replace(comparison, glue="a/folder")
    assert task.begun(cell).settings["dataset"] == "nyu-mll/glue"


def test_how_batches_are_split_is_recorded_as_in_its_file(comparison):
    own = dataclasses.replace(
        comparison, settings=comparison.settings | {"accelerator_config": {"split_batches": True}}
    )
    recorded = TaskRuns(own, "reviews").begun(Cell("reviews", "clean", "half", 0)).settings
    assert json.loads(json.dumps(recorded))["accelerator_config"]["split_batches"]


def test_a_run_records_the_device_that_trains(comparison, monkeypatch):
    monkeypatch.setattr("hf_kd_lambda.studies.comparison.runs.hardware", lambda use_cpu: f"use_cpu: {use_cpu}")
    assert TaskRuns(comparison, "reviews").begun(Cell("reviews", "clean", "half", 0)).hardware == "use_cpu: True"


def test_a_failed_run_is_recorded_does_not_end_the_others_and_is_repeated(comparison, monkeypatch):
    part = comparison.restricted_to(regimes=["clean"], rules=["no KD", "half"], seeds=[0])
    train, failing = TaskRuns.run, Cell("reviews", "clean", "no KD", 0)

    def run(self, cell):
        if cell == failing:
            raise RuntimeError("out of memory")
        return train(self, cell)

    monkeypatch.setattr(TaskRuns, "run", run)
    assert compare(part) == 1
    runs = runs_of(comparison)
    assert runs[failing].error == "RuntimeError: out of memory"
    assert runs[failing].score is None
    assert runs[failing._replace(rule="half")].error is None
    monkeypatch.undo()
    assert compare(part) == 0
    assert runs_of(comparison)[failing].error is None


def test_the_command_restricts_the_comparison_and_ends_with_an_error_if_runs_failed(tmp_path, monkeypatch, capsys):
    def failing(comparison):
        assert comparison.cells() == [("mrpc", "clean", "no KD", 7)]
        append_run(Path(comparison.output_dir) / FILE, dataclasses.replace(made_up_run("no KD"), error="Error: no"))
        return 1

    monkeypatch.setattr("hf_kd_lambda.studies.comparison.compare.compare", failing)
    chosen = ["--tasks", "mrpc", "--regimes", "clean", "--rules", "no KD", "--seeds", "7"]
    with pytest.raises(SystemExit, match="1 of the runs failed: the report has their errors"):
        main([str(CONFIGS / "compare_rules.yaml"), "--output_dir", str(tmp_path), *chosen])
    assert "No run has finished" in capsys.readouterr().out
    main([str(CONFIGS / "compare_rules.yaml"), "--output_dir", str(tmp_path), "--report"])
    assert "Error: no" in (tmp_path / "report.md").read_text()


def test_a_signal_ends_the_comparison_and_leaves_no_record_of_the_run(comparison, monkeypatch):
    monkeypatch.setattr(RunCurve, "on_train_begin", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingStoppedError, match="rerun the same command to repeat the run that it ended"):
        compare(comparison)
    assert runs_of(comparison) == {}


def test_the_seed_decides_the_run(comparison):
    task = TaskRuns(comparison, "reviews")
    cell = Cell("reviews", "noisy_labels", "adaptive", 0)
    first, again, other = (task.run(which) for which in (cell, cell, cell._replace(seed=1)))
    assert [entry["lambda"] for entry in first.log] == [entry["lambda"] for entry in again.log]
    assert [entry["task_loss"] for entry in first.log] == [entry["task_loss"] for entry in again.log]
    assert [entry["task_loss"] for entry in first.log] != [entry["task_loss"] for entry in other.log]


def test_a_regime_changes_the_training_examples_alone_and_for_all_rules_alike(comparison):
    task = TaskRuns(comparison, "reviews")
    train, evaluated = task.examples
    clean = np.array(train["labels"])
    truth = np.array(evaluated["labels"])
    noisy = [in_regime(train, Cell("reviews", "noisy_labels", rule, 0)) for rule in RULES]
    for examples in noisy:
        np.testing.assert_array_equal(examples["labels"], noisy[0]["labels"])
        assert (np.array(examples["labels"]) != clean).mean() == pytest.approx(0.3, abs=0.01)
        assert examples["input_ids"] == train["input_ids"]
        assert examples["teacher_logits"] == train["teacher_logits"]
    np.testing.assert_array_equal(task.examples[1]["labels"], truth)


def test_a_teacher_learns_the_noisy_labels_once_for_all_rules_of_a_seed(comparison):
    task = TaskRuns(comparison, "reviews")
    (teacher, first, score), (again, second, _) = (
        task.supervision(Cell("reviews", "noisy_teacher", rule, 0)) for rule in ("half", "adaptive")
    )
    noisy = in_regime(task.examples[0], Cell("reviews", "noisy_labels", "half", 0))
    assert first["labels"][:] == second["labels"][:] == noisy["labels"][:]
    assert first["teacher_logits"][:] == second["teacher_logits"][:] != noisy["teacher_logits"][:]
    weights = [dict(model.named_parameters())["classifier.weight"] for model in (teacher, again, task.teacher)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    with torch.no_grad():
        row = {name: torch.tensor([first[0][name]]) for name in ("input_ids", "attention_mask")}
        torch.testing.assert_close(teacher.eval()(**row).logits[0].tolist(), first["teacher_logits"][0])
    assert task.job.tokens["train"]["labels"][:] == task.examples[0]["labels"][:]
    assert score < task.teacher_score


def test_fewer_examples_are_fewer_steps(settings, tmp_path):
    comparison = Comparison(
        output_dir=str(tmp_path),
        tasks={"reviews": settings | {"per_device_train_batch_size": 4}},
        rules={"half": RULES["half"]},
        regimes={"few_labels": {"num_train_epochs": 5}},
        seeds=(0,),
    )
    run = TaskRuns(comparison, "reviews").run(comparison.cells()[0])
    assert run.steps == 2 * 5  # 7 of 72 examples
    assert run.settings["num_train_epochs"] == 5


def test_a_loss_of_hidden_states_has_its_teacher_and_what_the_regime_makes_of_its_logits(settings, tmp_path):
    comparison = Comparison(
        output_dir=str(tmp_path),
        tasks={"reviews": settings | {"kd_losses": {"soft_targets": 1, "hidden_mse": 1}}},
        rules={"half": RULES["half"]},
        regimes={"clean": {}, "overconfident_teacher": {}},
        seeds=(0,),
    )
    task = TaskRuns(comparison, "reviews")
    clean, spoiled_teacher = (task.run(cell) for cell in comparison.cells())
    for part, same in (("hidden_mse", True), ("soft_targets", False)):
        of_first_step = [run.log[0][f"kd_loss/{part}"] for run in (clean, spoiled_teacher)]
        assert (of_first_step[0] == pytest.approx(of_first_step[1], rel=1e-3)) == same


@pytest.mark.parametrize("regime", ["class_blind", "overconfident_teacher"])
def test_a_regime_that_needs_classes_is_refused_for_a_regression_before_a_teacher_is_trained(tmp_path, regime):
    comparison = Comparison(
        output_dir=str(tmp_path / "comparison"),
        tasks={"scores": small_jobs.settings(tmp_path, label_column="stars", **small_jobs.SET_BY_COMPARISON)},
        rules={"half": RULES["half"]},
        regimes={"clean": {}, regime: {}},
    )
    with pytest.raises(ValueError, match=f"scores: {regime} needs classes, but the task is a regression: add it to"):
        compare(comparison)
    skipping = dataclasses.replace(comparison, skipped={"scores": [regime]})
    assert TaskRuns(skipping, "scores").job.data.num_labels == 1


@pytest.mark.parametrize("regime", ["noisy_labels", "few_labels"])
def test_examples_without_a_label_are_for_the_regime_clean(tmp_path, regime):
    settings = small_jobs.settings(tmp_path, **small_jobs.SET_BY_COMPARISON)
    with open(settings["train_file"], "a") as file:
        file.write("a film,,3.0\n")
    comparison = Comparison(
        output_dir=str(tmp_path / "comparison"),
        tasks={"reviews": settings},
        rules={"half": RULES["half"]},
        regimes={"clean": {}, regime: {}},
    )
    message = f"reviews: {regime} needs one label for each example, but 1 of the training examples have none: add"
    with pytest.raises(ValueError, match=message):
        compare(comparison)
    TaskRuns(dataclasses.replace(comparison, skipped={"reviews": [regime]}), "reviews")


def test_a_region_of_the_longest_texts_is_refused_for_images_before_a_teacher_is_trained(tmp_path):
    comparison = Comparison(
        output_dir=str(tmp_path / "comparison"),
        tasks={"digits": tiny_images.image_settings(tmp_path, **small_jobs.SET_BY_COMPARISON)},
        rules={"half": RULES["half"]},
        regimes={"clean": {}, "region": {}},
    )
    with pytest.raises(ValueError, match="digits: region needs texts of different lengths, but all training examples"):
        compare(comparison)


def test_images_are_compared_by_their_feature_maps(tmp_path):
    images = tiny_images.image_settings(tmp_path, **small_jobs.SET_BY_COMPARISON)
    comparison = Comparison(
        output_dir=str(tmp_path / "comparison"),
        tasks={"hint": {**images, "kd_losses": {"attention_transfer": 1}}},
        rules={"adaptive": RULES["adaptive"]},
        regimes={"clean": {}, "noisy_labels": {}},
        seeds=(0,),
    )
    compare(comparison)
    for run in runs_of(comparison).values():
        assert run.error is None
        assert run.settings["train_sampling_strategy"] == "group_by_length"  # as set: images are drawn at random
        assert run.log[0]["kd_loss"] > 0


def test_a_second_comparison_in_a_folder_is_refused(tmp_path, monkeypatch):
    def never(comparison):
        pytest.fail("it must not begin")

    monkeypatch.setattr("hf_kd_lambda.studies.comparison.compare.compare", never)
    file = str(CONFIGS / "compare_rules.yaml")
    refused = rf"output_dir='{tmp_path}' is in use by process {os.getpid()} on host"
    with locked("output_dir", tmp_path), pytest.raises(ValueError, match=refused):
        main([file, "--output_dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["c.yaml", "--report", "--output_dir", "runs/a"], "hf-kd-lambda compare c.yaml --report"),
        (["c.yaml", "--output_dir", "runs/b"], "hf-kd-lambda compare c.yaml --output_dir runs/b"),
    ],
)
def test_a_report_names_its_command_without_a_folder_that_is_the_files_own(argv, command):
    assert command_of(argv, argv[-1], "runs/a") == command


def test_the_commit_is_that_of_the_package_alone(tmp_path, monkeypatch):
    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *names, *words], check=True, capture_output=True)

    installed = tmp_path / "venv" / "runs.py"  # in an environment within somebody's project
    installed.parent.mkdir()
    installed.touch()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    monkeypatch.setattr(runs, "__file__", str(installed))
    runs.commit.cache_clear()
    assert runs.commit() is None
    git("add", "venv/runs.py")
    git("commit", "-q", "-m", "ours")
    runs.commit.cache_clear()
    assert runs.commit() is not None
    monkeypatch.undo()
    runs.commit.cache_clear()
