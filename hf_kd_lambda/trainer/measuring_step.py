"""An optimizer step that measures: both gradients under Accelerate, from backward to what the optimizer gets."""

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from hf_kd_lambda.balancing.kd_split import KDSplit
from hf_kd_lambda.balancing.state import LambdaState, Measurement
from hf_kd_lambda.gradients.adam_metric import AdamMetric
from hf_kd_lambda.gradients.cut import Cut
from hf_kd_lambda.gradients.gram import Gram
from hf_kd_lambda.gradients.layer_groups import layer_groups
from hf_kd_lambda.gradients.pair import GradientPair
from hf_kd_lambda.gradients.sampled import SampledGradientPair
from hf_kd_lambda.gradients.sparse_embeddings import embedding_rows
from hf_kd_lambda.gradients.split import SplitGradients
from hf_kd_lambda.losses.objective import BatchLosses
from hf_kd_lambda.models.projections import is_projection
from hf_kd_lambda.trainer.config import DistillationConfig


class MeasuringStep:
    """Takes the gradients of every micro-batch, and sets λ and the combined gradient after the last one.

    Attributes:
        losses: `[2 + parts]`, summed over the micro-batches so far, on this rank; 0 before the first.

    Args:
        model: the student as Accelerate wraps it.
        optimizer: optimizer of its trainable parameters.
        accelerator: accelerator of the run.
        config: settings of the run.
    """

    def __init__(
        self, model: nn.Module, optimizer: AcceleratedOptimizer, accelerator: Accelerator, config: DistillationConfig
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.accelerator = accelerator
        self.max_grad_norm = config.max_grad_norm
        self.losses = torch.zeros((), device=accelerator.device)
        if accelerator.is_fsdp2:  # an evaluation leaves parameters gathered, and the optimizer has the shards
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
        self.gradients = _gradients(model, optimizer, config)
        # On a GPU zeros are cheap, and sparse tensors make it wait. Only the backend gloo exchanges sparse ones.
        self.takes_rows = (
            self.gradients.allows_sparse
            and accelerator.device.type == "cpu"
            and (accelerator.num_processes == 1 or dist.get_backend() == "gloo")
            and not _is_compiled(model)
        )

    @contextlib.contextmanager
    def local_gradients(self) -> Iterator[None]:
        """Where forward and backward leave each rank's own gradients: DDP would reduce only the first backward's.

        FSDP2 shards every backward's gradient right, but must do so for each micro-batch: the gradients that it delays
        are sums over both losses.
        """
        if self.accelerator.is_fsdp2:
            cast(FSDPModule, self.model).set_requires_gradient_sync(True)
            yield
            return
        rows = embedding_rows(self.model) if self.takes_rows else contextlib.nullcontext()
        with self.accelerator.no_sync(self.model), rows:
            yield

    def backward(self, cut: Cut, losses: BatchLosses, item_shares: Tensor | None = None) -> None:
        """Backpropagate the losses of one micro-batch, in the context of `local_gradients`.

        Args:
            cut: between the student's graph and that of the losses.
            losses: of the micro-batch.
            item_shares: `[2]`, the part of the step's items of both losses that the micro-batch has on this rank; only
                samples need them.
        """
        scaler = self.accelerator.scaler
        apart = [losses.task, *(losses.parts if self.gradients.splits_kd else [losses.kd])]
        task, *kd = apart if scaler is None else map(scaler.scale, apart)
        if item_shares is not None and self.accelerator.is_fsdp2:  # a sample is the micro-batches of all ranks
            item_shares = cast(Tensor, self.accelerator.reduce(item_shares, "mean"))
        self.gradients.accumulate(cut, task, *kd, item_shares=item_shares)
        self.losses = self.losses + losses.stacked().detach()

    def finish(self, state: LambdaState) -> Gram:
        """Average the gradients over ranks, measure, set λ, and leave w_task·g_task + w_kd·g_kd in `.grad`.

        Returns:
            The Gram matrix of the step's gradients over all parameters, with their noise.
        """
        # All-reduce: both gradients, averaged over the ranks. FSDP2 has done so in each backward pass.
        if self.accelerator.num_processes > 1 and not self.accelerator.is_fsdp2:
            self.gradients.average_over_ranks()
        self._sync_buffers_next()
        scaler = self.accelerator.scaler
        scale = scaler.get_scale() if scaler is not None else 1.0

        # Gram matrix: a, b and c of both gradients, unscaled. Several KD gradients become one first.
        self.gradients.merge_kd(lambda products: cast(KDSplit, state.split).update(products / scale**2))
        gram, measurement = self._measure(state, scale)

        # λ: set from the averaged Gram matrix by the rule, and bounded.
        state.update(measurement)
        if state.smoothness is not None:
            group = self.optimizer.param_groups[0]
            rate = group["lr"] / (1 - group.get("momentum", 0.0)) * self._clip_factor(state.weights, scale)
            losses = measurement.losses.where(measurement.losses != 0, torch.nan)  # 0: a batch without labels
            state.smoothness.update(losses, measurement.gram, state.weights, rate)

        # Combine: w_task·g_task + w_kd·g_kd. A gradient scaler finds non-finite gradients by itself.
        if scaler is not None or gram.is_finite():
            self.gradients.combine(*state.weights)
        else:
            self.gradients.drop()
        return Gram(*(entry.sum() for entry in gram))

    def _sync_buffers_next(self) -> None:
        """Have DDP begin the next forward with the first rank's buffers, as it does after an ordinary step.

        These are the statistics of BatchNorm, which each rank computes from its own examples.
        """
        replica = getattr(self.model, "_orig_mod", self.model)  # without the wrapper of torch.compile
        if isinstance(replica, DistributedDataParallel):
            replica.require_forward_param_sync = True

    def _measure(self, state: LambdaState, scale: float) -> tuple[Gram, Measurement]:
        """The Gram matrix as it is, and what λ is set from. Both gradients carry the scaler's factor."""
        step_weights = None
        if self.gradients.measures_the_step:  # the step that the weights so far would make
            task_weight, kd_weight = state.weights
            factor = self._clip_factor((task_weight, kd_weight), scale) / scale
            step_weights = (task_weight * factor, kd_weight * factor)
        measured = self.gradients.gram(step_weights)
        unbiased = self.gradients.unbiased(measured)
        gram, signal = (Gram(*(entry / scale**2 for entry in matrix)) for matrix in (measured, unbiased))
        losses = self.accelerator.reduce(self.losses[:2], "mean")
        return gram, Measurement(signal, losses, torch.stack([gram.task, gram.kd]))

    def _clip_factor(self, weights: tuple[Tensor, Tensor], scale: float) -> Tensor:
        """The factor by which the Trainer is going to clip the gradient combined with these weights."""
        if not self.max_grad_norm:
            return torch.ones((), device=self.losses.device)
        norm = self.gradients.combined_norm(*weights) / scale
        return (self.max_grad_norm / norm).clamp(max=1.0)


def _is_compiled(model: nn.Module) -> bool:
    """Whether torch compiles the model or a part of it, by `torch.compile(module)` or `module.compile()`."""
    compiled = (isinstance(part, OptimizedModule) or part._compiled_call_impl for part in model.modules())
    return any(compiled)


def _gradients(model: nn.Module, optimizer: AcceleratedOptimizer, config: DistillationConfig) -> GradientPair:
    """The pair of gradients for these settings, over all parameters of the optimizer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    names_by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    names = [names_by_id[id(parameter)] for parameter in parameters]
    # Projections are dropped after training and must not be balanced: their KD gradient would pass for the student's.
    unmeasured = {index for index, name in enumerate(names) if is_projection(name)}
    if config.lambda_scope == "loss":
        return SplitGradients(parameters, unmeasured)
    kind = SampledGradientPair if config.gram_estimator == "unbiased" else GradientPair
    groups = layer_groups(names)[0] if config.lambda_scope == "layer" else None
    metric = AdamMetric(optimizer) if config.gram_metric == "adam" else None
    return kind(parameters, groups, metric, unmeasured)
