"""Saved models on any split."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.processes import run_python
from helpers.small_jobs import job, settings
from helpers.tiny import save_checkpoint, tiny_bert

from hf_kd_lambda.data.arguments import DataArguments, EvaluatedData
from hf_kd_lambda.jobs import evaluate, onnx_export
from hf_kd_lambda.jobs.evaluate import main
from hf_kd_lambda.jobs.evaluation import evaluate_checkpoints, evaluated_data
from hf_kd_lambda.jobs.onnx_export import main as export
from hf_kd_lambda.studies.comparison.plan import arguments

ROOT = Path(__file__).parents[2]


def mislabel(file: Path, every: int) -> None:
    """Call praise what is none, in every so many rows, so that no model scores all of them."""
    head, *rows = file.read_text().splitlines()
    wrong = [row.replace("rant", "praise").replace("shrug", "praise") for row in rows]
    file.write_text("\n".join([head, *(wrong[i] if i % every == 0 else row for i, row in enumerate(rows))]) + "\n")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished job, the settings of its data, and its results."""
    folder = tmp_path_factory.mktemp("job")
    all_settings = settings(folder)
    data = {name: all_settings[name] for name in all_settings if name.endswith(("_file", "_column"))}
    mislabel(folder / "validation.csv", every=2)
    mislabel(folder / "test.csv", every=5)
    job(all_settings).run()
    return folder / "out", data, json.loads((folder / "out" / "results.json").read_text())


def test_a_saved_student_scores_as_in_its_job(run):
    folder, data, results = run
    checkpoints = {"teacher": str(folder / "teacher"), "model": str(folder)}
    split, reports, _ = evaluate_checkpoints(checkpoints, DataArguments(**data, max_length=16), None, 64)
    assert split == results["split"] == "test"
    assert 0.5 < results["models"][1]["metrics"]["accuracy"] < 1
    for report, before in zip(reports, results["models"], strict=True):
        assert report.metrics == pytest.approx(before["metrics"])
        assert report.parameters == before["parameters"]
        assert report.latency_ms > 0
    assert "teacher_agreement" not in reports[0].metrics


def test_the_split_is_the_one_asked_for(run):
    folder, data, _ = run
    scores = {}
    for split in ("train", "validation", "test"):
        found, (report,), _ = evaluate_checkpoints({"model": str(folder)}, DataArguments(**data), split, 64)
        assert found == split
        scores[split] = report.metrics["accuracy"]
    assert scores["train"] > scores["test"] > scores["validation"], "the more rows are mislabelled"
    with pytest.raises(ValueError, match="split='dev' is not one of those with labels: train, validation, test"):
        evaluate_checkpoints({"model": str(folder)}, DataArguments(**data), "dev", 64)


def test_the_script_prints_a_table_and_writes_json(run):
    folder, data, results = run
    file = folder.parent / "evaluation.json"
    command = [
        str(ROOT / "scripts" / "evaluate_model.py"),
        str(folder),
        *arguments(data),
        "--teacher",
        str(folder / "teacher"),
    ]
    command += ["--json", str(file), "--split", "test"]
    result = run_python(*command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"On {data['test_file']}, 36 examples:\n\n")
    written = json.loads(file.read_text())
    assert written["models"][1]["metrics"] == pytest.approx(results["models"][1]["metrics"])
    assert written["checkpoints"] == {"teacher": str(folder / "teacher"), "model": str(folder)}


def test_a_teacher_that_guesses_is_named(run, tmp_path, capsys):
    folder, data, _ = run
    names = dict(enumerate(["praise", "rant", "shrug"]))
    untrained = save_checkpoint(tiny_bert(3, id2label=names), tmp_path / "teacher")
    main([str(folder), *arguments(data), "--teacher", untrained])
    printed = " ".join(capsys.readouterr().out.split())
    assert "in another order. Check the order in its config.json (id2label), or choose another teacher." in printed
    assert "not judged" not in printed


def test_a_csv_with_some_of_the_classes_is_evaluated(run, tmp_path, capsys, caplog):
    folder, _, _ = run
    rows = ["review,kind", "good good a,praise", "best good b,praise", "bad worst c,rant", "bad dull d,rant"]
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    main([str(folder), str(tmp_path / "new.csv"), "--json", str(tmp_path / "new.json")])  # with the columns of the run
    printed = capsys.readouterr().out
    assert f"On {tmp_path / 'new.csv'}, 4 examples:" in printed
    _, table = printed.split("The model, by class:")
    assert [row.split() for row in table.splitlines()[4:]] == [
        ["praise", "100.0", "100.0", "100.0", "2"],
        ["rant", "100.0", "100.0", "100.0", "2"],
        ["shrug", "0.0", "0.0", "0.0", "0"],
    ]
    assert "test: 4 examples (praise 2, rant 2, shrug 0)" in caplog.text
    assert "train" not in caplog.text
    (model,) = json.loads((tmp_path / "new.json").read_text())["models"]
    assert model["metrics"]["accuracy"] == 1.0


def test_a_split_of_a_folder_without_training_examples_is_evaluated(run, tmp_path, capsys):
    folder, _, _ = run
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.csv").write_text("text,label\ngood good a,praise\nbad bad d,praise\n")
    main([str(folder), str(tmp_path / "data"), "--json", str(tmp_path / "new.json")])
    assert json.loads((tmp_path / "new.json").read_text())["models"][0]["metrics"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (["a.csv"], ["rant", "praise"]),
        (["--dataset", "a"], ["rant", "praise"]),
        (["a.csv", "--label_column", "label"], ["praise", "shrug"]),
    ],
)
def test_columns_of_the_run_are_read_where_the_data_has_them(run, tmp_path, monkeypatch, given, labels):
    rows = "text,kind,label\ngood good a,rant,praise\nbad bad d,praise,shrug\n"
    (tmp_path / "a").mkdir()
    for file in ("a.csv", "a/test.csv"):
        (tmp_path / file).write_text(rows)
    found = []
    monkeypatch.setattr(
        evaluate, "evaluate_checkpoints", lambda checkpoints, data, *others: found.append(data) or 1 / 0
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        main([str(run[0]), *given])
    _, data, split = evaluated_data(found[0], None, str(run[0]), seed=0)
    rows = data.splits[split]
    assert [data.label_names[label] for label in rows["label"]] == labels
    assert rows["text"][0] == "good good a"


def test_columns_of_labels_of_the_run_are_defaults(tmp_path):
    recorded = {
        "problem_type": "multi_label_classification",
        "label_columns": ["joy", "fear"],
        "label_column": "label",
    }
    (tmp_path / "results.json").write_text(json.dumps({"settings": recorded}))
    for given, expected in (([], ["joy", "fear"]), (["--label_column", "moods"], None)):
        parser = evaluate.ScreenParser((EvaluatedData,), {})
        parser.add_argument("model")
        _, data = evaluate.with_data(parser, [str(tmp_path), "a.csv", *given])
        assert (data.label_columns, data.problem_type) == (expected, recorded["problem_type"])


def test_a_glue_task_is_read_by_a_student_of_own_labels(tmp_path):
    recorded = {"problem_type": "multi_label_classification", "label_columns": ["joy", "fear"]}
    (tmp_path / "results.json").write_text(json.dumps({"settings": recorded}))
    parser = evaluate.ScreenParser((EvaluatedData,), {})
    parser.add_argument("model")
    _, data = evaluate.with_data(parser, [str(tmp_path), "--dataset", "nyu-mll/glue", "--task", "stsb"])
    assert (data.task, data.problem_type, data.label_columns) == ("stsb", None, None)


def test_the_examples_that_the_run_has_held_out_are_evaluated(run, tmp_path, capsys, caplog):
    recorded = json.loads((run[0] / "results.json").read_text())
    recorded["settings"]["validation_share"] = 0.3
    shutil.copytree(run[0], tmp_path / "model")
    (tmp_path / "model" / "results.json").write_text(json.dumps(recorded))
    rows = ["text,label", *["good good a,praise"] * 10, *["bad bad d,rant"] * 10]
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    main([str(tmp_path / "model"), "--train_file", str(tmp_path / "new.csv")])
    assert "On the validation split of " in capsys.readouterr().out
    assert "validation: 6 examples" in caplog.text
    caplog.clear()
    main([str(tmp_path / "model"), str(tmp_path / "new.csv")])
    assert "validation_share" not in caplog.text


def test_nothing_is_retained_of_a_teacher_at_chance(run, tmp_path, capsys):
    folder, _, _ = run
    rows = ["text,label", *["good good a,praise", "good good b,rant"] * 10]  # both models say praise
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    for split, teacher in (("test", folder), ("train", folder / "teacher")):
        given = [str(folder), f"--{split}_file", str(tmp_path / "new.csv"), "--split", split]
        main([*given, "--teacher", str(teacher), "--json", str(tmp_path / "new.json")])
        found = json.loads((tmp_path / "new.json").read_text())["models"][1]
        assert found["metrics"]["accuracy"] == 0.5
        assert found["retained"] is None
        assert "–" in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["--split", "test"]])
def test_all_examples_of_a_folder_are_evaluated(run, tmp_path, capsys, caplog, given):
    folder, _, _ = run
    (tmp_path / "data").mkdir()
    rows = ["text,label", *["good good a,praise"] * 9, *["bad bad d,praise"] * 3]
    (tmp_path / "data" / "new.csv").write_text("\n".join(rows) + "\n")
    main([str(folder), str(tmp_path / "data"), *given, "--json", str(tmp_path / "new.json")])
    assert f"On the test split of {tmp_path / 'data'}, 12 examples:" in capsys.readouterr().out
    assert "test: 12 examples" in caplog.text
    assert json.loads((tmp_path / "new.json").read_text())["models"][0]["metrics"]["accuracy"] == 0.75


def test_a_dataset_of_training_examples_is_evaluated_on_what_training_holds_out(run, tmp_path, capsys, caplog):
    folder, _, _ = run
    (tmp_path / "data").mkdir()
    rows = ["text,label", *["good good a,praise"] * 10, *["bad bad d,rant"] * 10]
    (tmp_path / "data" / "train.csv").write_text("\n".join(rows) + "\n")
    main([str(folder), "--dataset", str(tmp_path / "data")])
    assert f"On the validation split of {tmp_path / 'data'}, 2 examples:" in capsys.readouterr().out
    assert "validation: 2 examples (praise 1, rant 1, shrug 0)" in caplog.text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ("text-classification", "hypothesis", 16)),
        (["--max_length", "9"], ("text-classification", "hypothesis", 9)),
    ],
)
def test_a_student_reads_as_it_has_learned_to(tmp_path, monkeypatch, given, expected):
    def show(*args):
        (data,) = (value for value in args if isinstance(value, EvaluatedData))
        raise LookupError(data.problem, data.text_pair_column, data.max_length)

    recorded = {"max_length": 16, "text_pair_column": "hypothesis", "text_column": "premise", "doc_stride": None}
    (tmp_path / "results.json").write_text(json.dumps({"settings": recorded}))
    for module, name, command in ((evaluate, "evaluate_checkpoints", main), (onnx_export, "measure_forms", export)):
        monkeypatch.setattr(module, name, show)
        monkeypatch.setattr(onnx_export, "export_onnx", lambda folder: 0.0)
        with pytest.raises(LookupError) as shown:
            command([str(tmp_path), "--test_file", "new.csv", *given])
        assert shown.value.args == expected


@pytest.mark.parametrize("content", ["{broken", "[]", '{"settings": null}', "{}"])
def test_results_of_something_else_are_not_read(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    assert evaluate.recorded_settings(tmp_path) == evaluate.recorded_settings("org/model") == {}


def test_columns_of_labels_are_separated_as_for_distill(tmp_path, capsys):
    checkpoint = save_checkpoint(tiny_bert(2, layers=1, id2label={0: "mild", 1: "toxic"}), tmp_path / "model")
    (tmp_path / "new.csv").write_text("text,toxic,mild\nbad a,1,0\ngood b,0,1\n")
    labels = ["--problem_type", "multi_label_classification", "--label_columns"]
    for columns in (["toxic,mild"], ["toxic", "mild"], ["[toxic, mild]"]):
        main([checkpoint, str(tmp_path / "new.csv"), *labels, *columns])
    assert capsys.readouterr().out.count(f"On {tmp_path / 'new.csv'}, 2 examples:") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no examples: give a file or a folder"),
        (["--lable_column", "x"], "did you mean 'label_column'"),
        (["no.csv", "--json", "no_folder/scores.json"], "json='no_folder/scores.json' is a folder, or in a folder"),
        (["no.csv", "--json", "."], r"json='\.' is a folder"),
        (["no.csv", "--test_file", "other.csv"], r"DATA='no\.csv' and test_file='other\.csv': give one of them"),
    ],
)
def test_what_is_missing_or_unknown_is_named(run, words, message):
    with pytest.raises(ValueError, match=message):
        main([str(run[0]), *words])
