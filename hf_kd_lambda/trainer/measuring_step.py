"""An optimizer step that measures: both gradients under Accelerate, from backward to what the optimizer gets."""

import contextlib
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from hf_kd_lambda.balancing.state import LambdaState, Measurement
from hf_kd_lambda.gradients.adam_metric import AdamMetric
from hf_kd_lambda.gradients.cut import Cut
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.gradients.layer_groups import layer_groups
from hf_kd_lambda.gradients.pair import GradientPair
from hf_kd_lambda.gradients.sampled import SampledGradientPair
from hf_kd_lambda.gradients.sparse_embeddings import embedding_rows
from hf_kd_lambda.gradients.split import SplitGradients
from hf_kd_lambda.losses.objective import Losses
from hf_kd_lambda.models.projections import is_projection
from hf_kd_lambda.trainer.config import DistillationConfig


class MeasuringStep:
    """Takes the gradients of every micro-batch, and sets λ and the combined gradient after the last one.

    Attributes:
        losses: `[2 + parts]`, summed over the micro-batches so far, on this rank; 0 before the first.

    Args:
        model: the student as Accelerate wraps it.
        optimizer: of its trainable parameters.
        accelerator: of the run.
        config: of the run.
    """

    def __init__(
        self, model: nn.Module, optimizer: AcceleratedOptimizer, accelerator: Accelerator, config: DistillationConfig
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.accelerator = accelerator
        self.max_grad_norm = config.max_grad_norm
        self.losses = torch.zeros((), device=accelerator.device)
        parameters = [each for group in optimizer.param_groups for each in group["params"] if each.requires_grad]
        names_by_id = {id(parameter): name for name, parameter in model.named_parameters()}
        names = [names_by_id[id(parameter)] for parameter in parameters]
        groups = layer_groups(names)[0] if config.lambda_scope == "layer" else None
        metric = AdamMetric(optimizer) if config.gram_metric == "adam" else None
        # What is thrown away after training is not to be balanced: its KD gradient would pass for the student's.
        unmeasured = {index for index, name in enumerate(names) if is_projection(name)}
        self.gradients: GradientPair
        if config.lambda_scope == "loss":
            self.gradients = SplitGradients(parameters, unmeasured)
        else:
            kind = SampledGradientPair if config.gram_estimator == "unbiased" else GradientPair
            self.gradients = kind(parameters, groups, metric, unmeasured)
        # Where gradients are sent to other ranks, sampled, split or scaled by moments, they have to be dense; on
        # a GPU zeros are cheap, and sparse tensors make it wait.
        self.takes_rows = (
            type(self.gradients) is GradientPair
            and metric is None
            and not config.torch_compile
            and accelerator.num_processes == 1
            and accelerator.device.type == "cpu"
        )

    def local_gradients(self) -> contextlib.AbstractContextManager:
        """Where forward and backward leave each rank's own gradients: DDP would reduce only the first backward's.

        FSDP2 shards every backward's gradient right, but must do so for each micro-batch: what it holds back, it adds
        up over both losses.
        """
        if self.accelerator.is_fsdp2:
            cast(FSDPModule, self.model).set_requires_gradient_sync(True)
            return contextlib.nullcontext()
        return embedding_rows(self.model) if self.takes_rows else self.accelerator.no_sync(self.model)

    def backward(self, cut: Cut, losses: Losses) -> None:
        """Backpropagate the losses of one micro-batch, in the context of `local_gradients`."""
        scaler = self.accelerator.scaler
        kd_losses = losses.parts if isinstance(self.gradients, SplitGradients) else [losses.kd]
        each = [losses.task, *kd_losses]
        self.gradients.accumulate(cut, *(each if scaler is None else map(scaler.scale, each)))
        self.losses = self.losses + losses.stacked().detach()

    def finish(self, state: LambdaState) -> Gram:
        """Average the gradients over ranks, measure, set λ, and leave w_task·g_task + w_kd·g_kd in `.grad`.

        Returns:
            The Gram matrix of the step's gradients over all parameters, with their noise.
        """
        if self.accelerator.num_processes > 1 and not self.accelerator.is_fsdp2:
            self.gradients.average_over_ranks()
        replica = getattr(self.model, "_orig_mod", self.model)  # of what torch.compile puts around it
        if isinstance(replica, DistributedDataParallel):
            # As an ordinary step ends, so that the next forward begins with the buffers of the first rank: those that
            # BatchNorm counts with, which each rank has from its own examples.
            replica.require_forward_param_sync = True
        scaler = self.accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else 1.0
        state.to(self.losses.device)
        if isinstance(self.gradients, SplitGradients) and state.split is not None:
            state.split.update(self.gradients.products() / scale**2)
            self.gradients.merge(state.split.weights)
        gram, measurement = self._measure(state, scale)
        state.update(measurement)
        if state.smoothness is not None:
            group = self.optimizer.param_groups[0]
            rate = group["lr"] / (1 - group.get("momentum", 0.0)) * self._clip_factor(state, scale)
            state.smoothness.update(measurement.losses, measurement.gram, state.weights, rate)
        # A gradient scaler finds what is not finite by itself, and lowers its scale for it.
        if scaler is not None or gram.is_finite():
            self.gradients.combine(*state.weights)
        else:
            self.gradients.drop()
        return Gram(*(entry.sum() for entry in gram))

    def _measure(self, state: LambdaState, scale: float) -> tuple[Gram, Measurement]:
        """The Gram matrix as it is, and what λ is set from. Both gradients carry the scaler's factor."""
        step_weights, sampled = None, isinstance(self.gradients, SampledGradientPair)
        if self.gradients.metric is not None and not sampled:  # the step that the weights so far would make
            factor = self._clip_factor(state, scale) / scale
            step_weights = (state.weights[0] * factor, state.weights[1] * factor)
        measured = self.gradients.gram(step_weights)
        unbiased = self.gradients.unbiased(measured) if isinstance(self.gradients, SampledGradientPair) else None
        gram, signal = (Gram(*(entry / scale**2 for entry in each)) for each in (measured, unbiased or measured))
        losses = self.accelerator.reduce(self.losses[:2], "mean") if state.rule.needs else self.losses[:2]
        return gram, Measurement(signal, losses, torch.stack([gram.task, gram.kd]))

    def _clip_factor(self, state: LambdaState, scale: float) -> Tensor:
        """By what the Trainer is going to multiply the combined gradient, of the weights in force, to clip it."""
        if not self.max_grad_norm:
            return torch.ones((), device=self.losses.device)
        norm = self.gradients.combined_norm(*state.weights) / scale
        return (self.max_grad_norm / norm).clamp(max=1.0)
