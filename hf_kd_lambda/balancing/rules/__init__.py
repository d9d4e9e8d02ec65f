"""Rules: pure functions without state that map the Gram matrix of the two gradients to weights of the two losses.

λ is the weight of the KD loss divided by the weight of the task loss. A step along d = w_task·g_task + w_kd·g_kd with
learning rate η changes the losses, to first order, by

    ΔL_task = −η (w_task·a + w_kd·c)        ΔL_kd = −η (w_task·c + w_kd·b)

with a = |g_task|², b = |g_kd|², c = <g_task, g_kd> (the linear terms of arXiv 2505.06270's expansion).
"""

from hf_kd_lambda.balancing.rules.base import Rule, Weights, feasible_interval, loss_weights
from hf_kd_lambda.balancing.rules.registry import RULES, make_rule, rule_weights

__all__ = ["RULES", "Rule", "Weights", "feasible_interval", "loss_weights", "make_rule", "rule_weights"]
