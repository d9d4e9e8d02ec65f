"""Students in fp32 of teachers in half precision, quantised, or offloaded."""

import copy

import pytest
import torch
from helpers.small_runs import config, examples, flat, models, train
from helpers.tiny import save_checkpoint
from transformers import AutoModelForSequenceClassification


def run(folder, teacher, student, **settings):
    return train(config(folder, teacher_cache_dir=str(folder / "cache"), **settings), teacher, student, examples())


def test_a_teacher_in_bf16_teaches_what_its_logits_say(tmp_path):
    teacher, student = models()
    teacher.bfloat16()
    trained = run(tmp_path, teacher, copy.deepcopy(student))
    data = examples()
    with torch.no_grad():
        inputs = {name: torch.tensor(data[name][:]) for name in ("input_ids", "attention_mask")}
        logits = teacher(**inputs).logits.float()
    given = data.add_column("teacher_logits", logits.tolist())
    expected = train(config(tmp_path / "given"), None, copy.deepcopy(student), given)
    assert next(trained.model.parameters()).dtype == torch.float32
    torch.testing.assert_close(flat(trained.model), flat(expected.model), rtol=0.02, atol=1e-3)
    assert not torch.equal(flat(trained.model), flat(student))


def test_an_int8_teacher_is_computed_once(tmp_path):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    teacher, student = models()
    quantization.quantize_(teacher, quantization.Int8WeightOnlyConfig())
    first, second = (run(tmp_path, copy.deepcopy(teacher), copy.deepcopy(student)) for _ in range(2))
    assert torch.equal(flat(first.model), flat(second.model))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_offloaded_teacher_stays_where_it_is_and_runs_at_each_step(tmp_path, caplog):
    teacher, student = models()
    alone = run(tmp_path / "alone", teacher, copy.deepcopy(student), cache_teacher=False)
    checkpoint = save_checkpoint(teacher, tmp_path / "teacher")
    parts = dict.fromkeys(("bert.embeddings", "bert.pooler", "dropout", "classifier"), "cpu")
    offloaded = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, device_map={**parts, "bert.encoder": "disk"}, offload_folder=str(tmp_path / "offload")
    )
    trained = run(tmp_path, offloaded, copy.deepcopy(student))
    torch.testing.assert_close(flat(trained.model), flat(alone.model), rtol=1e-5, atol=1e-7)
    assert "the teacher runs at each step, because weight" in caplog.text
