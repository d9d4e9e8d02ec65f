"""Ways to train that cannot work are refused before training, and those that measure little are warned of."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.optim import Adam, Optimizer
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from hf_kd_lambda.trainer.config import DistillationConfig

logger = logging.get_logger(__name__)

FEW_EXAMPLES = 8  # examples, whose standard deviation is known within a quarter
ADAM_OPTIMIZERS = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


def check_overrides(kind: Any, base: Any) -> None:
    """Refuse a subclass whose own loss would be left out of measuring steps.

    Args:
        kind: the class of the trainer.
        base: `DistillationTrainer`.

    Raises:
        ValueError: it overrides `compute_loss`.
    """
    if kind.compute_loss is not base.compute_loss:
        raise ValueError(
            f"{kind.__name__} overrides compute_loss, which measuring steps do not call: give compute_loss_func for "
            "another task loss, and kd_losses for another KD loss."
        )


def check_strategy(args: DistillationConfig, accelerator: Accelerator) -> None:
    """Refuse ways to train in which two gradients of one forward cannot be had.

    Raises:
        ValueError: DeepSpeed, FSDP1, FSDP where it is unavailable or its parameters are on the CPU, DataParallel,
            tensor, context or sequence parallelism, reentrant checkpointing, or an optimizer that steps in backward.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    checkpointing = args.gradient_checkpointing_kwargs or {}
    sizes = {name: getattr(accelerator.parallelism_config, name, 1) for name in ("tp_size", "cp_size", "sp_size")}
    parallel = ", ".join(f"{name}={size}" for name, size in sizes.items())
    refusals = {
        "DeepSpeed takes the gradients out of .grad during backward: train with DDP or FSDP2.": (
            accelerator.distributed_type == DistributedType.DEEPSPEED
        ),
        "FSDP1 frees the parameters after the first of two backward passes: set fsdp_version to 2.": (
            accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2
        ),
        "fsdp is set, but Accelerate shards on accelerators only and would train with DDP instead: drop fsdp, or "
        "train on GPUs.": bool(args.fsdp) and accelerator.distributed_type != DistributedType.FSDP,
        "cpu_ram_efficient_loading leaves the teacher without weights on all ranks but the first: set it to false in "
        "fsdp_config, or fsdp_cpu_ram_efficient_loading in what `accelerate config` wrote.": bool(
            getattr(plugin, "cpu_ram_efficient_loading", False)
        ),
        "FSDP2 with parameters on the CPU has the gradients there, and λ is set on the GPU: set cpu_offload to false "
        "in fsdp_config, or fsdp_offload_params in what `accelerate config` wrote.": isinstance(
            getattr(plugin, "cpu_offload", None), CPUOffloadPolicy
        ),
        f"{args.n_gpu} GPUs in one process mean DataParallel, which hides the gradients of its replicas: start one "
        f"process a GPU with `accelerate launch`, or `hf-kd-lambda distill` with --num_processes {args.n_gpu}; or set "
        "CUDA_VISIBLE_DEVICES=0 to train on one.": args.n_gpu > 1,
        "gradient_checkpointing_kwargs={'use_reentrant': True} allows one backward pass only: set use_reentrant to "
        "False.": bool(args.gradient_checkpointing and checkpointing.get("use_reentrant")),
        f"parallelism_config cuts tensors or sequences into parts ({parallel}), of which no rank has whole gradients: "
        "train with DDP or FSDP2.": any(size > 1 for size in sizes.values()),
        f"optim={args.optim.value!r} steps during backward, before λ is known: choose another, e.g. adamw_torch.": (
            args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO) or "layerwise" in args.optim.value
        ),
        f"ddp_static_graph=True is not for lambda_rule={args.lambda_rule!r}, which goes back through the graph twice "
        "where it measures: leave it out.": bool(args.ddp_static_graph and args.rule.measures),
    }
    for message, refused in refusals.items():
        if refused:
            raise ValueError(message)


def check_saving(accelerator: Accelerator, has_adapters: bool) -> None:
    """Check that a job saves whole weights, and not the shards of FSDP2.

    Args:
        accelerator: of the job's trainer.
        has_adapters: whether adapters are merged into the student's weights at the end.

    Raises:
        ValueError: FSDP2 saves shards, so that `save_model` writes no weights; or it shards what is to be merged.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and has_adapters:
        raise ValueError(
            "lora: adapters cannot be merged into a student that FSDP2 shards: leave fsdp out, which adapters hardly "
            "need, or train them in Python and merge the saved ones."
        )
    if plugin is not None and "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ValueError(
            f"state_dict_type={plugin.state_dict_type} saves the shards of the student, which nobody could load: set "
            "it to FULL_STATE_DICT in fsdp_config, or in what `accelerate config` wrote."
        )


def steps_with_adam(args: DistillationConfig, optimizer: Optimizer | None, given: tuple[Any, Any] | None) -> bool:
    """Whether torch's Adam or AdamW makes the steps.

    Args:
        args: settings of the run, whose `optim` counts where neither of the following is given.
        optimizer: the caller's optimizer.
        given: class, or function that makes one, and arguments (`optimizer_cls_and_kwargs`).
    """
    if optimizer is not None:
        return isinstance(getattr(optimizer, "optimizer", optimizer), Adam)
    if given is None:
        return args.optim in ADAM_OPTIMIZERS
    return isinstance(given[0], type) and issubclass(given[0], Adam)


def check_metric(args: DistillationConfig, is_adam: bool) -> None:
    """Refuse Adam's metric without Adam.

    Raises:
        ValueError: another optimizer makes the steps.
    """
    if args.gram_metric == "adam" and not is_adam:
        raise ValueError(
            "gram_metric='adam' needs the second moments of torch's Adam or AdamW, and another optimizer makes the "
            "steps: set optim to adamw_torch or adamw_torch_fused, or gram_metric to euclidean."
        )


def check_trust(args: DistillationConfig, has_own_task_loss: bool) -> None:
    """Refuse the rule `trust` where it cannot weigh the items.

    Raises:
        ValueError: the task loss is the user's own.
    """
    if args.lambda_rule == "trust" and has_own_task_loss:
        raise ValueError(
            "lambda_rule='trust', the default, weighs the items of the task loss, which it cannot do in "
            "compute_loss_func: set lambda_rule to evidence or adaptive, or leave compute_loss_func out."
        )


def warn_of_blind_measurements(args: DistillationConfig, num_outputs: int, is_sharded: bool, is_adam: bool) -> None:
    """Warn of steps that cannot measure what their rule needs."""
    # The gradients of FSDP2 are sums over the ranks to begin with.
    samples = args.gradient_accumulation_steps * (1 if is_sharded else args.world_size)
    if args.gram_estimator == "unbiased" and samples == 1:
        logger.warning(
            "gram_estimator='unbiased' finds one micro-batch a step, which cannot separate noise from signal, so that "
            "the biased Gram matrix is used: raise gradient_accumulation_steps."
        )
    if "odds" in args.rule.needs and num_outputs == 1 and args.per_device_train_batch_size < FEW_EXAMPLES:
        logger.warning(
            f"lambda_rule={args.lambda_rule!r} compares the teacher's numbers with the mean and spread of a "
            f"micro-batch's labels, and {args.per_device_train_batch_size} examples are too few for both: raise "
            "per_device_train_batch_size, or set lambda_rule to adaptive."
        )
    if "smoothness" in args.rule.needs and args.gram_metric == "euclidean" and is_adam:
        logger.warning(
            f"lambda_rule={args.lambda_rule!r} compares the losses' changes with those that the Gram matrix predicts, "
            "which for steps of Adam only its own metric does: set gram_metric to adam."
        )
