"""The teacher's outputs, and when they can be cached."""

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from helpers.tiny import tiny_bert
from torch import nn
from transformers import default_data_collator
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_kd_lambda.models.ensemble import Ensemble
from hf_kd_lambda.teacher import teacher_outputs
from hf_kd_lambda.teacher.cache_format import CacheFormat
from hf_kd_lambda.teacher.teacher_outputs import TeacherOutputs


class PlainTeacher(nn.Module):
    """A teacher without a configuration."""

    def forward(self, input_ids):
        return SequenceClassifierOutput(logits=input_ids[:, :3].float())


def cached(teacher, folder):
    examples = Dataset.from_dict({"input_ids": [[index, 5, 6, 7] for index in range(5)]})
    outputs = TeacherOutputs(teacher, Accelerator(cpu=True), (), CacheFormat())
    (result,) = outputs.add_to([examples], str(folder), 4, default_data_collator, lambda batch: batch, progress=False)
    return result


def test_a_teacher_without_identity_runs_at_each_step(tmp_path, caplog):
    assert cached(PlainTeacher(), tmp_path).column_names == ["input_ids"]
    assert (
        "cache_teacher: the teacher runs at each step, because a PlainTeacher has no Transformers configuration"
        in caplog.text
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_teacher_is_cached_by_its_weights(tmp_path):
    def quantised():
        return torch.ao.quantization.quantize_dynamic(tiny_bert(), {nn.Linear}, dtype=torch.qint8)

    first, second = quantised(), quantised()
    rows = [torch.tensor(cached(teacher, tmp_path)["teacher_logits"][:]) for teacher in (first, second)]
    assert not torch.equal(*rows), "another teacher's outputs are not read"
    again = torch.tensor(cached(first, tmp_path)["teacher_logits"][:])
    assert torch.equal(again, rows[0])
    assert len(list(tmp_path.iterdir())) == 2


def test_outputs_for_other_settings_are_refused_where_there_is_no_teacher():
    outputs = TeacherOutputs(None, Accelerator(cpu=True), (), CacheFormat(top_logits=2, classes=3))
    batch = {"teacher_outputs": {"hidden_states.1": torch.zeros(2, 4)}}
    assert not outputs.can_be_had(batch)
    with pytest.raises(ValueError, match="have no column teacher_outputs for these settings, and teacher is None"):
        outputs(batch)


def test_every_teacher_is_moved_but_those_that_were_placed(monkeypatch):
    members = [tiny_bert(layers=1) for _ in range(3)]
    members[1].hf_device_map = {"bert": 0, "classifier": 1}
    ensemble = Ensemble(members)
    for index, found in enumerate(ensemble.members):
        monkeypatch.setattr(found, "to", lambda device, index=index: moved.append(index))
    here = torch.device("cpu")
    for elsewhere, expected in (((1, 2), [2]), ((0, 1, 2), [0, 2]), ((), [])):
        devices = {ensemble.members[i]: torch.device("meta") for i in elsewhere}
        monkeypatch.setattr(teacher_outputs, "model_device", lambda model, devices=devices: devices.get(model, here))
        moved: list[int] = []
        TeacherOutputs(ensemble, Accelerator(cpu=True), (), CacheFormat())
        assert moved == expected


def test_a_teacher_is_not_hashed_where_nothing_is_to_be_cached(monkeypatch):
    monkeypatch.setattr("hf_kd_lambda.teacher.teacher_outputs.teacher_digest", None)
    examples = Dataset.from_dict({"input_ids": [[5, 6]], "teacher_logits": [[0.0, 1.0]]})
    outputs = TeacherOutputs(tiny_bert(num_labels=2), Accelerator(cpu=True), (), CacheFormat())
    (result,) = outputs.add_to([examples], None, 4, default_data_collator, lambda batch: batch, progress=False)
    assert result is examples
