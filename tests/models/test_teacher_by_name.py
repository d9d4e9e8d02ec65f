"""Teachers by their names."""

import pytest
import torch
from helpers.tiny import save_checkpoint, tiny_bert

from hf_kd_lambda.models.teacher_by_name import load_teacher


def test_a_teacher_may_be_a_folder(tmp_path):
    saved = tiny_bert(num_labels=3)
    loaded = load_teacher(save_checkpoint(saved, tmp_path), tiny_bert(num_labels=3))
    torch.testing.assert_close(loaded.classifier.weight, saved.classifier.weight)
    assert load_teacher(saved, tiny_bert(num_labels=3)) is saved
    assert load_teacher(None, saved) is None


def test_a_teacher_without_a_head_is_refused(tmp_path):
    save_checkpoint(tiny_bert(num_labels=2).bert, tmp_path)
    with pytest.raises(ValueError, match="has no trained output layer, so that it would only guess"):
        load_teacher(tmp_path, tiny_bert(num_labels=2))
