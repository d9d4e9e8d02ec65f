"""Teachers in another precision: whole jobs."""

import pytest
import torch
from helpers.small_jobs import WORDS, job, settings
from helpers.tiny import save_checkpoint, tiny_bert
from safetensors.torch import load_file

NAMES = sorted(WORDS)


@pytest.mark.parametrize(
    ("saved", "teacher_dtype"), [(torch.float16, "auto"), (torch.float32, "fp16")], ids=["auto", "fp16"]
)
def test_a_job_with_a_teacher_in_half_precision(tmp_path, saved, teacher_dtype):
    model = tiny_bert(layers=2, id2label=dict(enumerate(NAMES)), label2id={name: i for i, name in enumerate(NAMES)})
    model.classifier.weight.data *= 20
    checkpoint = save_checkpoint(model.to(saved), tmp_path / "teacher")
    changed = {"teacher": checkpoint, "teacher_dtype": teacher_dtype, "student_layers": [0], "max_steps": 2}
    changed |= dict.fromkeys(("teacher_finetune", "teacher_epochs", "teacher_learning_rate"))
    whole = job(settings(tmp_path, **changed, teacher_cache_dir=str(tmp_path / "cache")))
    whole.check()
    assert {parameter.dtype for parameter in whole.load_teacher().parameters()} == {torch.float16}
    whole.run()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights.values())
