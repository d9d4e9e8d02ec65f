"""The weights in force, and what is counted of a batch."""

import torch

from hf_kd_lambda.balancing.balancer import Balancer
from hf_kd_lambda.balancing.rules import make_rule
from hf_kd_lambda.balancing.state import LambdaState
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.labels import item_labels


def balancer(rule, form="convex", groups=None):
    rule = make_rule(rule, {})
    state = LambdaState(rule, 1.0, 0.0, (1e-3, 1e3), 80.0, form, groups)
    return Balancer(rule, form, 1, state, [], torch.device("cpu"))


def test_weights_of_several_groups_in_raw_form_have_the_mean_of_the_groups_sums():
    of_groups = balancer("mgda", "raw", groups=2)
    of_groups.state.lambda_, of_groups.state.total = torch.tensor([1.0, 9.0]), torch.tensor([2.0, 6.0])
    assert torch.stack(of_groups.weights(0.5)).tolist() == [1.0, 3.0]


def test_the_teachers_information_is_that_of_unlabelled_items_too():
    of_trust = balancer("trust")
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, -100, -100])
    of_trust.observe(logits, TeacherBatch(logits), item_labels(labels))
    of_trust.end_step(lambda counts: counts)
    assert of_trust.state.teacher_signal.sums[1] == 3
