"""Agreement of student and teacher."""

import pytest
import torch

from hf_kd_lambda.reports.agreement import teacher_agreement


def test_agreement_is_the_share_of_equal_classes():
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 4.0], [0.0, 9.0]], requires_grad=True)
    teacher = torch.tensor([[9.0, 1.0], [0.1, 0.2], [0.0, 1.0], [0.0, 1.0]], dtype=torch.bfloat16)
    assert teacher_agreement(student, teacher) == 0.75


def test_spans_agree_where_both_ends_do():
    student, teacher = torch.tensor([[0, 4], [2, 3], [5, 9]]), torch.tensor([[0, 4], [2, 7], [4, 8]])
    assert teacher_agreement(student, teacher) == pytest.approx(1 / 3)
    assert teacher_agreement(student[:, 0], teacher[:, 0]) == pytest.approx(2 / 3)


def test_agreement_of_regressions_is_a_correlation():
    teacher = torch.tensor([[1.0], [2.0], [4.0]])
    assert teacher_agreement(3 - 2 * teacher, teacher) == pytest.approx(-1.0)
    assert teacher_agreement(torch.ones(3, 1), teacher) == 0.0
