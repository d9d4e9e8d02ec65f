"""The dot product in which a step of Adam or AdamW is steepest descent."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Adam, Optimizer


class AdamMetric:
    """P = 1/(√v̂ + ε) of a parameter: Adam steps along P g (Kingma & Ba 2015, algorithm 1), where SGD steps along g.

    So <g_T, P g_T> and its like, for which `GradientPair` takes this, predict what a step of Adam does to the
    losses, as <g_T, g_T> predicts it for SGD: to first order, and but for momentum and this step's part in v̂. v̂ is the
    bias-corrected second moment before the step, AMSGrad's largest one where that is on. A parameter that was never
    stepped has none, and P = 1: the first Gram matrix of a run is the Euclidean one.

    Args:
        optimizer: torch's Adam or AdamW (plain, foreach, fused or capturable), or Accelerate's wrapper of it.

    Raises:
        ValueError: it is another optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = check_adam(optimizer)
        self.options = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}

    def __call__(self, parameter: Tensor) -> Tensor:
        """P in fp32, of the shape of the parameter or of its local shard; a scalar 1 before its first step."""
        state = self.optimizer.state.get(parameter)
        if not state:
            return torch.ones((), device=parameter.device)
        options = self.options[parameter]
        moment = state["max_exp_avg_sq" if options["amsgrad"] else "exp_avg_sq"]
        moment = moment.to_local() if isinstance(moment, DTensor) else moment
        # The step is a tensor, and may lie on the GPU, which nothing here waits for.
        correction = 1 - options["betas"][1] ** state["step"]
        return (moment.float() / correction).sqrt_().add_(options["eps"]).reciprocal_()


def check_adam(optimizer: Optimizer) -> Adam:
    """Refuse an optimizer without the second moments of `AdamMetric`, and take Accelerate's wrapper off another.

    Raises:
        ValueError: it is neither torch's Adam nor its AdamW.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(optimizer, Adam):
        raise ValueError(
            f"gram_metric='adam' needs the second moments of torch's Adam or AdamW, and {type(optimizer).__name__} is "
            "another optimizer: set optim to adamw_torch or adamw_torch_fused, or gram_metric to euclidean."
        )
    return optimizer
