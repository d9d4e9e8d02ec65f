"""A student as ONNX, where the [onnx] extra is installed."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.processes import run_python
from helpers.tiny import save_checkpoint, tiny_batch, tiny_bert, tiny_tokenizer
from transformers import BertForTokenClassification

from hf_kd_lambda.jobs import onnx_export
from hf_kd_lambda.jobs.onnx_export import export_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture
def student():
    torch.manual_seed(0)
    model = tiny_bert(num_labels=3, layers=2).eval()
    torch.nn.init.normal_(model.classifier.weight)  # logits that are far from each other
    return model


def test_the_script_writes_a_file_that_says_what_the_model_does(tmp_path, student):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = save_checkpoint(student, tmp_path)
    result = run_python(str(ROOT / "scripts" / "export_onnx.py"), folder)
    assert result.returncode == 0, result.stderr
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for size, length in ((1, 4), (5, 12)):
        batch = tiny_batch(size, length)
        batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
        (found,) = session.run(["logits"], {name: value.numpy() for name, value in batch.items()})
        with torch.inference_mode():
            expected = student(**batch).logits
        assert expected.std() > 0.1
        torch.testing.assert_close(torch.from_numpy(found), expected)


def test_another_kind_of_model_is_refused(tmp_path):
    torch.manual_seed(0)
    tagger = BertForTokenClassification(tiny_bert(num_labels=3, layers=1).config)
    folder = save_checkpoint(tagger, tmp_path)
    result = run_python(str(ROOT / "scripts" / "export_onnx.py"), folder)
    assert result.returncode != 0
    assert "holds no text classifier" in result.stderr
    assert not (tmp_path / "model.onnx").exists()


def test_a_file_that_says_something_else_is_not_kept(tmp_path, student, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="cannot be exported"):
        export_onnx(student, tiny_tokenizer(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    (tmp_path / "model.onnx").write_text("of an earlier export")
    with pytest.raises(ValueError, match="cannot be exported"):
        export_onnx(student, tiny_tokenizer(), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "of an earlier export"


def test_without_the_extra_the_message_names_it(tmp_path, student, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hf-kd-lambda\[onnx\]'"):
        export_onnx(student, tiny_tokenizer(), tmp_path / "model.onnx")
