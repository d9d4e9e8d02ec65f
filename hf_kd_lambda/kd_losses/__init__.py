"""KD losses by name, any weighted sum of which is the loss whose gradient λ balances against the task loss's.

Each is a small dataclass of its hyper-parameters over a pure function of `hf_kd_lambda.losses`.
"""

from hf_kd_lambda.kd_losses.by_name import KD_LOSSES, make_kd_losses
from hf_kd_lambda.kd_losses.kd_loss import Given, KDLoss

__all__ = ["KD_LOSSES", "Given", "KDLoss", "make_kd_losses"]
