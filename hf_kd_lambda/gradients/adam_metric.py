"""The dot product in which a step of Adam or AdamW is steepest descent."""

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from hf_kd_lambda.gradients.gram import local_part


class AdamMetric:
    """P = 1/(√v̂ + ε) of a parameter: Adam steps along P g (Kingma & Ba 2015, algorithm 1), while SGD steps along g.

    With this metric, `GradientPair` computes the entries <g_task, P g_task>, <g_kd, P g_kd> and <g_task, P g_kd>. They
    predict how a step of Adam changes the losses, as the Euclidean entries do for SGD: to first order, without
    momentum and without the change of v̂ with the gradient.

    v̂ is the bias-corrected second moment that the step will use, including the square of the step's gradient. If that
    gradient is not known yet, v̂ is the moment before the step. Then an embedding row that no batch has used has v̂ = 0,
    and its P = 1/ε dominates all others. Before a parameter's first step, P is 1. AMSGrad uses its maximum of v.

    Args:
        optimizer: torch's Adam or AdamW (plain, foreach, fused or capturable), or Accelerate's wrapper of it.

    Raises:
        ValueError: the optimizer is neither torch's Adam nor its AdamW.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = check_adam(optimizer)
        self.options = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}

    def __call__(self, parameter: Tensor, gradient: Tensor | None = None) -> Tensor:
        """P in fp32, same shape as the parameter or its local shard; a scalar 1 without gradient and moments.

        Args:
            parameter: a parameter of the optimizer.
            gradient: the gradient of the next step, clipped and unscaled, of the local shard; None if unknown.
        """
        state, options = self.optimizer.state.get(parameter), self.options[parameter]
        beta, epsilon = options["betas"][1], options["eps"]
        if state:
            # The step is a tensor, possibly on the GPU: never synchronize for its value.
            moment, step = local_part(state["exp_avg_sq"]).float(), state["step"]
            if gradient is not None:
                moment, step = torch.lerp(gradient.float().square(), moment, beta), step + 1  # v ← β·v + (1 − β)·g²
            if "max_exp_avg_sq" in state:
                moment = torch.maximum(moment, local_part(state["max_exp_avg_sq"]).float())
            corrected = moment / (1 - beta**step)  # v̂ = v/(1 − βⁿ)
        elif gradient is not None:
            corrected = gradient.float().square()  # v̂ of the first step is g²
        else:
            return torch.ones((), device=parameter.device)
        return corrected.sqrt_().add_(epsilon).reciprocal_()  # P = 1/(√v̂ + ε)


def check_adam(optimizer: Optimizer) -> Adam:
    """The optimizer without Accelerate's wrapper, checked to be torch's Adam or AdamW.

    Raises:
        ValueError: it is another optimizer, without the second moments that `AdamMetric` needs.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(optimizer, Adam):
        raise ValueError(
            f"gram_metric='adam' needs the second moments of torch's Adam or AdamW, but the optimizer is "
            f"{type(optimizer).__name__}: set optim to adamw_torch or adamw_torch_fused, or gram_metric to euclidean."
        )
    return optimizer
