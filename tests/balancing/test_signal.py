"""The share of the Gram matrix that is signal, and its bounds."""

import torch

from hf_kd_lambda.balancing.signal import LEAST_SHARE, bounded_signal
from hf_kd_lambda.gradients.gram import Gram


def test_signal_is_the_share_that_is_no_noise():
    gram, share = bounded_signal(Gram(*torch.tensor([1.0, 6.0, -2.0])), torch.tensor([4.0, 8.0]))
    torch.testing.assert_close(torch.stack(gram), torch.tensor([1.0, 6.0, -2.0]))
    assert share.tolist() == [0.25, 0.75]


def test_impossible_estimates_are_bounded_group_by_group():
    estimate = Gram(torch.tensor([-1.0, 9.0, 1.0, 0.0]), torch.tensor([2.0, 1.0, 4.0, 0.0]), torch.full((4,), -50.0))
    gram, share = bounded_signal(estimate, torch.tensor([[4.0, 4.0, 4.0, 0.0]] * 2))
    torch.testing.assert_close(gram.task, torch.tensor([4 * LEAST_SHARE, 4.0, 1.0, 0.0]))
    torch.testing.assert_close(gram.kd, torch.tensor([2.0, 1.0, 4.0, 0.0]))
    torch.testing.assert_close(gram.dot, -(gram.task * gram.kd).sqrt())
    assert share.shape == (2, 4)
    assert ((share > 0) & (share <= 1)).all()
