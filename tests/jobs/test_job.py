"""Whole jobs: what they leave behind, and that a killed one ends as one that was not."""

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.processes import KILLER, run_python
from helpers.small_jobs import job, settings
from helpers.tiny import save_checkpoint, tiny_bert
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, pipeline

from hf_kd_lambda.jobs.hub import student_files
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.report import suspicious_examples
from hf_kd_lambda.jobs.resuming import load_finished
from hf_kd_lambda.reports.label_quality import LabelQuality
from hf_kd_lambda.studies.comparison.plan import arguments

ROOT = Path(__file__).parents[2]


def test_a_job_leaves_what_a_transformers_user_expects(tmp_path):
    job(settings(tmp_path, student_without_kd=True)).run()
    out = tmp_path / "out"
    for name in ("model.safetensors", "tokenizer.json", "training_args.bin", "trainer_state.json"):
        assert (out / name).is_file()
    assert (out / "lambda.png").read_bytes().startswith(b"\x89PNG")
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert {"lambda", "kd_weight", "grad_cosine", "task_loss", "kd_loss"} <= history[0].keys()

    names = {"praise", "rant", "shrug"}
    assert set(AutoModelForSequenceClassification.from_pretrained(out).config.id2label.values()) == names
    assert pipeline("text-classification", str(out))("good a")[0]["label"] in names

    results = json.loads((out / "results.json").read_text())
    models = {model["name"]: model for model in results["models"]}
    assert list(models) == ["teacher", "student without KD", "student with KD"]
    assert models["teacher"]["retained"] == 1
    student, teacher = models["student with KD"], models["teacher"]
    assert student["retained"] == pytest.approx(student["metrics"]["score"] / teacher["metrics"]["score"])
    assert student["parameters"] < teacher["parameters"]
    assert student["latency_ms"] > 0


def test_a_run_with_trust_tells_which_labels_look_wrong(tmp_path):
    given = settings(tmp_path, lambda_rule="trust", label_quality="texts", unlabelled_file=unlabelled_file(tmp_path))
    given["validation_file"] = None  # so that rows are held out
    reviews = Path(given["train_file"])
    reviews.write_text(reviews.read_text().replace("praise", "rant", 6))  # of two copies each
    run = job(given)
    run.run()
    out, train = tmp_path / "out", run.data.splits["train"]
    rows = pd.read_parquet(out / "label_quality.parquet")
    assert list(rows["text"]) == train["text"][:]
    assert list(rows["label"].isna()) == [label is None for label in train["label"][:]]
    written = pd.concat([pd.read_csv(given["train_file"])["review"], pd.Series(unlabelled_texts())], ignore_index=True)
    assert list(written[rows["row"]]) == list(rows["text"])
    assert len(set(rows["row"])) == len(rows)
    found = json.loads((out / "results.json").read_text())["label_quality"]
    assert (found["examples"], found["labelled"], len(found["classes"])) == (88, 64, 3)
    assert found["uninformative_teacher"] == pytest.approx(1 - rows["teacher_trust"].mean(), abs=1e-5)
    card = (out / "README.md").read_text()
    assert "of the labels look wrong, probably more" in card
    _, section = (out / "report.html").read_text().split("<h2>Labels that look wrong</h2>")
    suspicious = rows[(rows["label"] != rows["teacher"]) & rows["label"].notna() | (rows["label_wrong"] >= 0.1)]
    assert section.partition("</table>")[0].count("<tr>") == 1 + min(len(suspicious), 30) > 1  # a head, and these
    assert "The teacher was fine-tuned on these labels" in card
    job({**given, "label_quality": "none"}).run()
    assert not (out / "label_quality.parquet").exists()


def test_no_label_is_judged_by_a_teacher_that_guesses(tmp_path, caplog, capsys):
    job(settings(tmp_path, teacher_learning_rate=1e-9, teacher_epochs=1, num_train_epochs=1)).run()
    out, words = tmp_path / "out", "and a constant guess scores 25.0%: "
    assert not (out / "label_quality.parquet").exists()
    assert words in caplog.text
    assert "labels are not judged: the teacher scores no better than a constant guess" in caplog.text
    notes = " ".join(json.loads((out / "results.json").read_text())["notes"])
    printed = " ".join(capsys.readouterr().out.partition("On the test split")[2].split())
    for text in (printed, (out / "README.md").read_text(), (out / "report.html").read_text(), notes):
        assert words in text
        assert "look wrong" not in text


def test_examples_whose_labels_look_wrong_have_their_texts_by_default(tmp_path):
    given = settings(tmp_path)
    for pair, text in ((None, "best best b"), ("stars", "best best b ‖ 4.5")):
        run = job({**given, "text_pair_column": pair})
        count = len(run.data.splits["train"])
        zeros, wrong = np.zeros(count, dtype=int), np.eye(count)[1]
        quality = LabelQuality(zeros, zeros, wrong, wrong, wrong, 1.0, 1.0, run.data.label_names)
        found = suspicious_examples(run.data, quality)
        assert [(example["row"], example["text"]) for example in found] == [(1, text)]


def unlabelled_texts():
    return [f"{word} film {end}" for word in ("good", "dull", "is") for end in "abcdefgh"]


def unlabelled_file(folder):
    path = folder / "more.txt"
    path.write_text("".join(f"{text}\n" for text in unlabelled_texts()))
    return str(path)


def test_unlabelled_texts_are_learned_from_by_the_kd_loss_alone(tmp_path):
    given = settings(tmp_path, student_without_kd=True)
    teacher = job(given).teacher_settings
    run = job({**given, "unlabelled_file": unlabelled_file(tmp_path)})
    assert run.teacher_settings == teacher
    run.run()
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert results["examples"] == {"train": 96, "validation": 36, "test": 36, "train_unlabelled": 24}
    assert results["settings"]["unlabelled_file"] == "more.txt"
    assert "| training examples | 72 with a label, 24 without |" in (out / "README.md").read_text()
    steps = {
        name: json.loads((out / name / "trainer_state.json").read_text())["max_steps"] for name in ("", "without_kd")
    }
    assert steps == {"": 16, "without_kd": 12}


def test_a_folder_with_a_readme_of_the_user_is_refused_before_training(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("my project")
    with pytest.raises(ValueError, match=r"holds README.md, which the run would replace"):
        job(settings(tmp_path)).check()
    assert (tmp_path / "out" / "README.md").read_text() == "my project"


def test_a_teacher_that_other_examples_chose_is_another_teacher(tmp_path):
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    given = settings(tmp_path, **best)
    other = tmp_path / "other.csv"
    lines = Path(given["validation_file"]).read_text().splitlines(keepends=True)
    other.write_text("".join(lines[:-3]))
    first, second = (job(kind).teacher_settings for kind in (given, {**given, "validation_file": str(other)}))
    assert [name for name in first if first[name] != second[name]] == ["validation examples"]
    last = {"load_best_model_at_end": False}
    first, second = (job(kind | last).teacher_settings for kind in (given, {**given, "validation_file": str(other)}))
    assert first == second


def test_a_student_without_any_label_in_training(tmp_path):
    teacher = tiny_bert(3, layers=4, id2label=dict(enumerate(["praise", "rant", "shrug"])))
    teacher.classifier.weight.data *= 20  # else there is nearly nothing to learn
    given = settings(
        tmp_path,
        teacher=save_checkpoint(teacher, tmp_path / "own"),
        teacher_finetune=False,
        train_file=None,
        unlabelled_file=unlabelled_file(tmp_path),
        learning_rate=2e-4,  # the student, of the teacher's layers, has little to learn: larger steps overshoot
        num_train_epochs=8,
    )
    job(given).run()
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    losses = [entry for entry in history if "task_loss" in entry]
    assert {entry["task_loss"] for entry in losses} == {0.0}
    assert losses[-1]["kd_loss"] < losses[0]["kd_loss"]
    for setting in ("teacher_finetune", "student_without_kd"):
        with pytest.raises(ValueError, match=f"{setting}=True learns from labels alone, and no training example"):
            job({**given, setting: True, "output_dir": str(tmp_path / setting)}).check()


def test_a_finished_run_without_checkpoints_is_evaluated_again_and_no_model_trained(
    tmp_path, caplog, capsys, monkeypatch
):
    out, given = tmp_path / "out", settings(tmp_path, student_without_kd=True)
    first = job(given).run()
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    results = json.loads((out / "results.json").read_text())
    assert len(written) == 3
    assert not [*out.glob("checkpoint-*")]
    assert "trained in" in capsys.readouterr().out
    caplog.clear()
    again = job(given).run()
    assert [report.metrics for report in again] == [report.metrics for report in first]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == written
    repeated = json.loads((out / "results.json").read_text())
    assert [repeated[name] for name in ("lambda", "label_quality")] == [
        results[name] for name in ("lambda", "label_quality")
    ]
    assert "out is finished: its student is evaluated again. Choose another output_dir" in caplog.text
    assert "trained in" not in capsys.readouterr().out

    monkeypatch.setattr("hf_kd_lambda.jobs.job.evaluate_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        job(given).run()
    assert student_files(out)  # can be pushed


def test_a_trained_student_is_not_trained_again_after_an_error_in_its_evaluation(tmp_path, caplog, monkeypatch):
    given, weights = settings(tmp_path), tmp_path / "out" / "model.safetensors"
    with monkeypatch.context() as context:
        context.setattr(DistillationJob, "_evaluate_student", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job(given).run()
    written = weights.stat().st_mtime_ns
    with pytest.raises(ValueError, match="it has no model card"):
        student_files(tmp_path / "out")
    job(given).run()
    assert weights.stat().st_mtime_ns == written
    assert "out is finished: its student is evaluated again." in caplog.text
    assert student_files(tmp_path / "out")  # can be pushed


def test_a_finished_run_whose_state_is_gone_is_refused_instead_of_trained(tmp_path):
    with pytest.raises(ValueError, match=r"holds a finished student, whose trainer_state.json cannot be read .*:"):
        load_finished(None, None, tmp_path)


def test_a_finished_student_is_reported_in_other_ways_without_being_trained_again(tmp_path, capsys):
    given = settings(tmp_path)
    job(given).run()
    trained = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    other = tmp_path / "other.csv"
    other.write_text("".join(Path(given["test_file"]).read_text().splitlines(keepends=True)[:-5]))
    changed = {**given, "test_file": str(other), "student_without_kd": True}
    capsys.readouterr()
    reports = job(changed).run()
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == trained
    assert "On the test split, 31 examples" in capsys.readouterr().out
    in_one = job({**changed, "output_dir": str(tmp_path / "in_one")}).run()
    assert [(report.name, report.metrics) for report in reports] == [
        (report.name, report.metrics) for report in in_one
    ]
    assert [report.name for report in reports] == ["teacher", "student without KD", "student with KD"]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["test_file"] == "other.csv"


def test_what_was_drawn_before_does_not_change_the_teacher(tmp_path):
    """Checks before training draw random numbers: of dropout, of the order of examples."""
    heads = []
    for drawn in (0, 7):
        run = job(settings(tmp_path, output_dir=str(tmp_path / str(drawn))))
        torch.rand(drawn)
        heads.append(run.load_teacher().classifier.weight)
    torch.testing.assert_close(*heads, rtol=0, atol=0)


def test_class_weights_are_those_of_the_teachers_fine_tuning_too(tmp_path, monkeypatch):
    losses = []
    monkeypatch.setattr(
        "hf_kd_lambda.jobs.job.finetune", lambda *args, **kwargs: losses.append(kwargs["compute_loss"])
    )
    given = settings(tmp_path)
    lines = Path(given["train_file"]).read_text().splitlines(keepends=True)
    Path(given["train_file"]).write_text("".join(lines[:-12]))  # half of the rants
    for weights in ("balanced", None):
        job({**given, "class_weights": weights})._finetune_teacher()
    weighted, plain = losses
    torch.testing.assert_close(weighted.class_weights, torch.tensor([5 / 6, 5 / 3, 5 / 6]))
    assert plain is None


def test_a_student_is_made_of_layers_or_loaded(tmp_path):
    teacher = tiny_bert(3, layers=4, id2label=dict(enumerate(["praise", "rant", "shrug"])))
    built = job(settings(tmp_path)).load_student(teacher)
    assert built.config.num_hidden_layers == 2
    torch.testing.assert_close(built.classifier.weight, teacher.classifier.weight)

    checkpoint = save_checkpoint(tiny_bert(3, layers=1, id2label=teacher.config.id2label), tmp_path / "student")
    loaded = job(settings(tmp_path, student=checkpoint, student_layers=None)).load_student(teacher)
    assert loaded.config.num_hidden_layers == 1
    assert not torch.equal(loaded.classifier.weight, teacher.classifier.weight)


def test_a_folder_of_another_run_is_refused(tmp_path):
    job(settings(tmp_path)).run()
    with pytest.raises(ValueError, match="that differs in temperature"):
        job(settings(tmp_path, temperature=3.0)).check()
    with pytest.raises(ValueError, match="that differs in optim_args"):
        job(settings(tmp_path, optim_args="a=1")).check()
    record = tmp_path / "out" / "run.json"
    alone = record.read_text()
    record.write_text(alone.replace('"num_processes": 1', '"num_processes": 2'))
    with pytest.raises(ValueError, match="that differs in num_processes"):
        job(settings(tmp_path)).check()
    record.write_text(alone)
    again = settings(tmp_path)
    rows = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(
        rows.replace("praise", "other").replace("rant", "praise").replace("other", "rant")
    )
    with pytest.raises(ValueError, match=r"output_dir=.* holds a run that differs in examples:"):
        job(again).check()


def test_a_checkpoint_to_resume_from_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"resume_from_checkpoint='x': a run resumes .* leave it out"):
        job(settings(tmp_path, resume_from_checkpoint="x")).check()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_longest_text_of_each_split_is_tried(tmp_path, split):
    given = settings(tmp_path, max_length=60)
    with (tmp_path / f"{split}.csv").open("a") as file:
        file.write(f"{'good ' * 40},praise,4.5\n")
    architecture = {"model_type": "distilbert", "n_layers": 1, "dim": 32, "n_heads": 2, "hidden_dim": 64}
    student = json.dumps({**architecture, "max_position_embeddings": 16})
    with pytest.raises(ValueError, match=r"student: a Distil\w+ cannot read the longest example, of 42 tokens"):
        job({**given, "student_layers": None, "student_architecture": student}).check()


@pytest.fixture(scope="module")
def plain_reports(tmp_path_factory):
    return job(settings(tmp_path_factory.mktemp("plain"), eval_strategy="no")).run()


@pytest.mark.parametrize("changed", [{"dataloader_drop_last": True}, {"eval_do_concat_batches": False}])
def test_what_training_leaves_out_is_scored(tmp_path, plain_reports, changed):
    given = settings(tmp_path, eval_strategy="no", **changed)
    for report, plain in zip(job(given).run(), plain_reports, strict=True):
        assert report.metrics == pytest.approx(plain.metrics)


def test_a_layer_that_does_not_exist_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        job(settings(tmp_path, student_layers=[0, 9])).check()
    assert not (tmp_path / "out" / "teacher" / "model.safetensors").exists()


def test_regression_end_to_end(tmp_path):
    teacher, student = job(settings(tmp_path, label_column="stars")).run()
    assert min(model.metrics[name] for model in (teacher, student) for name in ("pearson", "spearmanr", "score")) > 0.5


def test_a_killed_run_ends_as_one_that_was_not(tmp_path):
    rule = {"lambda_rule": "evidence", "lambda_interval": 2}  # others: `trainer/test_trainer_rules.py`
    whole = settings(tmp_path, save_strategy="steps", save_steps=2, num_train_epochs=2, **rule)
    job(whole).run()
    teacher = {"teacher_dir": str(tmp_path / "taught")}
    killed = {**whole, "output_dir": str(tmp_path / "killed"), **teacher}
    assert run_python("-c", KILLER, "3", *arguments(killed)).returncode == -signal.SIGKILL
    again = run_python(str(ROOT / "scripts" / "distill.py"), *arguments(killed))
    assert again.returncode == 0, again.stderr[-2000:]
    assert "resuming from" in again.stderr

    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "killed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    histories = [
        [
            entry["lambda"]
            for entry in json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
            if "lambda" in entry
        ]
        for name in ("out", "killed")
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 12


def test_evaluations_without_predictions_are_those_of_the_distillation_alone(tmp_path):
    best = {"metric_for_best_model": "task_loss", "load_best_model_at_end": True, "save_strategy": "epoch"}
    run = job(settings(tmp_path, teacher_epochs=1, prediction_loss_only=True, student_without_kd=True, **best))
    teacher = run.load_teacher()
    run.train_without_kd(run.load_student(teacher))
    for folder in (run.teacher_folder, run.baseline_folder):
        assert "eval_score" in (folder / "trainer_state.json").read_text()


def test_a_finished_student_with_merged_adapters_has_other_layers_with_a_lambda(tmp_path):
    given = settings(tmp_path, lora={"r": 2}, lambda_scope="layer", num_train_epochs=1)
    first, again = (job(given).run()[-1].metrics for _ in range(2))
    assert again == first
