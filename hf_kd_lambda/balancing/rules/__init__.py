"""Rules: pure functions without state that map the Gram matrix of the two gradients to weights of the two losses.

λ is the weight of the KD loss divided by the weight of the task loss. A step along d = w_T·g_T + w_D·g_D with learning
rate η changes the losses, to first order, by

    ΔL_T = −η (w_T·a + w_D·c)        ΔL_D = −η (w_T·c + w_D·b)

with a = |g_T|², b = |g_D|², c = <g_T, g_D> (the linear terms of arXiv 2505.06270's expansion).
"""

from hf_kd_lambda.balancing.rules.base import Rule, Weights, feasible_interval, loss_weights
from hf_kd_lambda.balancing.rules.registry import RULES, make_rule, rule_weights

__all__ = ["RULES", "Rule", "Weights", "feasible_interval", "loss_weights", "make_rule", "rule_weights"]
