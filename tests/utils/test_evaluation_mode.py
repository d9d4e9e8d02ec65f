"""A model in evaluation mode for a while."""

from torch import nn

from hf_kd_lambda.utils.evaluation_mode import evaluation_mode


def test_each_part_has_its_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with evaluation_mode(model):
        assert [part.training for part in model.modules()] == [False, False, False]
    assert [part.training for part in model.modules()] == [True, True, False]
