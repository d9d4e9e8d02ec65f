"""Rules: pure functions without state that map the Gram matrix of the two gradients to weights of the two losses.

λ is the weight of the KD loss divided by the weight of the task loss. A step along d = w_T·g_T + w_D·g_D with learning
rate η changes the losses, to first order, by

    ΔL_T = −η (w_T·a + w_D·c)        ΔL_D = −η (w_T·c + w_D·b)

with a = |g_T|², b = |g_D|², c = <g_T, g_D> (the linear terms of arXiv 2505.06270's expansion).
"""

from hf_kd_lambda.balancing.rules.base import Rule, Weights, feasible_interval, loss_weights
from hf_kd_lambda.balancing.rules.common_descent import MGDA, AlignedMTL, CAGrad, DualProj, PCGrad, UPGrad
from hf_kd_lambda.balancing.rules.norm_based import (
    IMTLG,
    SNR,
    Adaptive,
    ConFIG,
    Evidence,
    GradNorm,
    Nash,
    NormRatio,
    Trust,
)
from hf_kd_lambda.balancing.rules.registry import RULES, make_rule, rule_weights
from hf_kd_lambda.balancing.rules.schedules import Cosine, Fixed, Linear, Step
from hf_kd_lambda.balancing.rules.task_first import DTO, CosineGate, Taylor2

__all__ = [
    "DTO",
    "IMTLG",
    "MGDA",
    "RULES",
    "SNR",
    "Adaptive",
    "AlignedMTL",
    "CAGrad",
    "ConFIG",
    "Cosine",
    "CosineGate",
    "DualProj",
    "Evidence",
    "Fixed",
    "GradNorm",
    "Linear",
    "Nash",
    "NormRatio",
    "PCGrad",
    "Rule",
    "Step",
    "Taylor2",
    "Trust",
    "UPGrad",
    "Weights",
    "feasible_interval",
    "loss_weights",
    "make_rule",
    "rule_weights",
]
