"""Both losses of a batch."""

import torch

from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional import dkd_loss
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.losses.objective import Objective
from hf_kd_lambda.losses.registry import make_kd_losses


def test_the_class_of_an_unlabelled_item_is_the_teachers_answer():
    logits, teacher = torch.randn(2, 3), TeacherBatch(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]))
    labels = torch.tensor([1, -100])
    objective = Objective(make_kd_losses({"dkd": 1.0}), temperature=2.0)
    found = objective({"logits": logits}, teacher, {"labels": labels}, item_labels(labels))
    expected = dkd_loss(logits, teacher.logits, torch.tensor([1, 2]), 2, 2.0, alpha=1.0, beta=8.0)
    torch.testing.assert_close(found.kd, expected)
