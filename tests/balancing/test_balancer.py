"""The weights in force."""

import torch

from hf_kd_lambda.balancing.balancer import Balancer
from hf_kd_lambda.balancing.rules import make_rule
from hf_kd_lambda.balancing.state import LambdaState


def test_weights_of_several_groups_in_raw_form_have_the_mean_of_the_groups_sums():
    rule = make_rule("mgda", {})
    state = LambdaState(rule, 0.0, (1e-3, 1e3), 80.0, "raw", num_groups=2)
    state.lambda_, state.total = torch.tensor([1.0, 9.0]), torch.tensor([2.0, 6.0])
    balancer = Balancer(rule, "raw", 1, state, [], torch.device("cpu"))
    assert torch.stack(balancer.weights(0.5)).tolist() == [1.0, 3.0]
