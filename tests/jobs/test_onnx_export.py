"""Students as ONNX files, where the [onnx] extra is installed."""

import json
import logging
import sys
from itertools import product

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from helpers.small_jobs import job, settings
from helpers.tiny import save_checkpoint, tiny_batch, tiny_bert, tiny_tokenizer
from helpers.tiny_images import VIT, save_image_checkpoint, tiny_classifier
from helpers.tiny_lm import language_models
from helpers.tiny_spans import span_bert

from hf_kd_lambda import cli
from hf_kd_lambda.data.arguments import EvaluatedData
from hf_kd_lambda.jobs import onnx_export
from hf_kd_lambda.jobs.onnx_export import FILES, FORMS, SECTION, export_onnx, measure_forms, record_exports
from hf_kd_lambda.models.labels import set_labels
from hf_kd_lambda.models.onnx_file import run_by_onnx
from hf_kd_lambda.reports.results import ModelReport
from hf_kd_lambda.studies.comparison.plan import arguments
from hf_kd_lambda.utils.run_files import CARD, ONNX, ONNX_INT8, RESULTS

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def student():
    torch.manual_seed(0)
    model = tiny_bert(num_labels=3, layers=1).eval()
    torch.nn.init.normal_(model.classifier.weight)  # logits that are far from each other
    return model


MODELS = {
    "text": lambda: tiny_bert(layers=1, hidden_size=256, intermediate_size=512),
    "questions": lambda: span_bert(layers=1),
    "next tokens": lambda: language_models("gpt2")[1],
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_any_task_computes_the_same_by_onnxruntime(tmp_path, kind):
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    save_checkpoint(model, tmp_path)
    assert export_onnx(tmp_path) < 1e-4
    if kind == "text":  # whose weights are most of the file
        assert (tmp_path / ONNX_INT8).stat().st_size < 0.4 * (tmp_path / FILES["ONNX"]).stat().st_size
    batches = [tiny_batch(size, length) for size, length in ((1, 4), (5, 12))]
    for batch in batches:
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    names = [name for name in ("logits", "start_logits", "end_logits") if name in model(**batches[0])]
    expected = [model(**batch) for batch in batches]
    for batch, outputs in zip(batches, expected, strict=True):
        found = run_by_onnx(model, tmp_path / FILES["ONNX"])(**batch)
        for name in names:
            assert outputs[name].std() > 0
            torch.testing.assert_close(found[name], outputs[name], atol=1e-4, rtol=0)


def test_a_job_exports_scores_sizes_and_latencies(tmp_path, capsys, monkeypatch):
    given = settings(tmp_path)
    job(given).run()
    folder = tmp_path / "out"
    models = json.loads((folder / RESULTS).read_text())["models"]
    names = ("train_file", "validation_file", "test_file", "text_column", "label_column", "max_length")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    cli.main(["export", str(folder), *arguments({name: given[name] for name in names})])
    assert logging.getLogger().handlers == [], "onnxruntime has not set up the root logger"
    printed = capsys.readouterr().out
    exports = json.loads((folder / RESULTS).read_text())["exports"]["models"]
    assert [form["name"] for form in exports] == [*FORMS]
    assert exports[0]["metrics"]["score"] == pytest.approx(models[-1]["metrics"]["score"], abs=0.02)
    assert exports[2]["metrics"] == pytest.approx(exports[0]["metrics"])
    assert exports[2]["metrics"]["agreement_with_fp32"] == 1
    assert exports[3]["metrics"]["agreement_with_fp32"] > 0.9
    assert exports[1]["megabytes"] == pytest.approx(exports[0]["megabytes"] / 2)
    assert exports[3]["megabytes"] == (folder / ONNX_INT8).stat().st_size / 1e6
    assert all(form["latency_ms"] > 0 and form["batch_latency_ms"] > 0 for form in exports)
    for name in (ONNX, ONNX_INT8, CARD, RESULTS):
        assert str(folder / name) in printed
    record_exports(folder, "test", [ModelReport(**form) for form in exports])  # replaces the table
    card = (folder / CARD).read_text()
    assert card.count(SECTION) == card.count("int8.onnx |") == 1
    assert card.index("| ONNX int8") < card.index("## Limits") < card.index("## Citation")


TEXTS = [f"{a} {b} film" for a, b in product(("bad", "best", "dull", "good", "great"), repeat=2)]


def write_csv(folder, labels):
    rows = "\n".join(f"{text},{label}" for text, label in zip(TEXTS, labels, strict=True))
    (folder / "test.csv").write_text(f"text,label\n{rows}\n")
    return {"test_file": str(folder / "test.csv")}


def write_class_labels(folder, labels):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["shrug", "rant", "praise"])})
    (folder / "data").mkdir()
    Dataset.from_dict({"text": TEXTS, "label": labels}, features).to_parquet(folder / "data" / "test.parquet")
    return {"dataset": str(folder / "data")}


@pytest.mark.parametrize("write", [write_csv, write_class_labels])
def test_all_forms_are_evaluated_in_the_order_of_the_data(tmp_path, student, write):
    names = ["praise", "shrug", "rant"]
    set_labels(student.config, names)
    save_checkpoint(student, tmp_path)
    export_onnx(tmp_path)
    logits = student(**tiny_tokenizer()(TEXTS, return_tensors="pt", padding=True)).logits
    data = write(tmp_path, [names[index] for index in logits.argmax(-1)])  # which the student all gets right
    _, reports = measure_forms(tmp_path, EvaluatedData(**data))
    scores = {report.name: report.metrics for report in reports}
    assert scores["fp32"]["accuracy"] == scores["ONNX"]["accuracy"] == 1
    assert scores["ONNX"]["agreement_with_fp32"] == 1
    assert scores["ONNX int8"]["agreement_with_fp32"] > 0.8


def test_data_settings_are_those_of_evaluate(tmp_path, student, capsys):
    """A file without training examples, of which some of the model's classes have none."""
    set_labels(student.config, ["praise", "shrug", "rant"])
    save_checkpoint(student, tmp_path)
    data = write_csv(tmp_path, ["rant"] * len(TEXTS))
    for given in (arguments(data), [data["test_file"]]):
        cli.main(["export", str(tmp_path), *given])
        assert "On the test split" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    assert "--label_column" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [["toxic,mild"], ["toxic", "mild"]])
def test_columns_of_labels_are_separated_as_for_distill(tmp_path, monkeypatch, columns):
    def show(folder, data):
        raise ValueError(f"{data.label_columns}")

    monkeypatch.setattr(onnx_export, "export_onnx", lambda folder: 0.0)
    monkeypatch.setattr(onnx_export, "measure_forms", show)
    words = ["--test_file", "a.csv", "--problem_type", "multi_label_classification", "--label_columns", *columns]
    with pytest.raises(ValueError, match=r"^\['toxic', 'mild'\]$"):
        onnx_export.main([str(tmp_path), *words])


def test_damaged_results_are_named(tmp_path):
    (tmp_path / RESULTS).write_text('{"models": [')
    with pytest.raises(ValueError, match=rf"{RESULTS} is damaged .*: remove it"):
        record_exports(tmp_path, None, [])


@pytest.mark.parametrize("channels", [1, 4])
def test_images_are_measured_without_data(tmp_path, channels):
    torch.manual_seed(0)
    save_image_checkpoint(tiny_classifier(VIT, num_channels=channels), tmp_path, channels=channels)
    export_onnx(tmp_path)
    split, reports = measure_forms(tmp_path, None)
    assert split is None
    assert [report.name for report in reports] == [*FORMS]
    assert not any(report.metrics for report in reports)


def test_an_encoder_that_transformers_does_not_know_is_refused(tmp_path, student):
    student.config.architectures = ["Mine"]
    save_checkpoint(student, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["Mine"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names no model class of Transformers, but 'Mine'"):
        export_onnx(tmp_path)


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, student, monkeypatch):
    save_checkpoint(student, tmp_path)
    (tmp_path / "model.onnx").write_text("of an earlier export")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(onnx_export, "write_onnx", lambda model, example, path: path.write_text("another"))
    monkeypatch.setattr(onnx_export, "run_by_onnx", lambda model, path: tiny_bert(num_labels=3, layers=1).eval())
    with pytest.raises(ValueError, match="a BertForSequenceClassification cannot be exported"):
        export_onnx(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "model.onnx").read_text() == "of an earlier export"


def test_a_model_of_more_than_one_file_is_refused_and_leaves_none(tmp_path, student, monkeypatch):
    save_checkpoint(student, tmp_path)
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    with pytest.raises(ValueError, match=r"does not fit into one ONNX file \(torch also wrote model\.onnx\.data\)"):
        export_onnx(tmp_path)
    assert not list(tmp_path.glob("*.onnx*"))


def test_without_the_extra_the_message_names_it(tmp_path, student, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf-kd-lambda\[onnx\]'"):
        export_onnx(tmp_path)
