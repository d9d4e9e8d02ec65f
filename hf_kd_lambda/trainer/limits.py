"""What cannot work is refused before training starts, and what hardly works is warned of: messages name the fix."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor
from torch.optim import Adam, Optimizer
from transformers import PreTrainedConfig
from transformers.trainer_utils import unwrap_peft_model
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.loaded_forms import is_placed
from hf_kd_lambda.models.projections import KD_PROJECTIONS
from hf_kd_lambda.models.protocol import answers_questions, is_multi_label
from hf_kd_lambda.trainer.config import DistillationConfig

logger = logging.get_logger(__name__)

FEW_EXAMPLES = 8  # examples, whose standard deviation is known within a quarter
ADAM_OPTIMIZERS = (OptimizerNames.ADAMW_TORCH, OptimizerNames.ADAMW_TORCH_FUSED)


def require_student(student: nn.Module | None) -> None:
    """Refuse searches that replace the student in each trial, while λ's state and projections stay.

    Raises:
        ValueError: there is no student.
    """
    if student is None:
        raise ValueError(
            "model=None: a DistillationTrainer belongs to one student, so that model_init and hyperparameter_search "
            "are not supported: give a model, and make a trainer for each trial."
        )


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


def check_problem(student: PreTrainedConfig, has_own_task_loss: bool) -> None:
    """Check that a student of several labels an example has two labels or more, and the built-in task loss.

    Raises:
        ValueError: it has one label, or a task loss of the user.
    """
    if student.problem_type != MULTI_LABEL:
        return
    if has_own_task_loss:
        raise ValueError(
            f"compute_loss_func is not supported with problem_type={MULTI_LABEL!r}, whose task loss is the binary "
            "cross-entropy of each label: leave it out."
        )
    if student.num_labels == 1:
        raise ValueError(
            f"problem_type={MULTI_LABEL!r} needs two labels or more: give the one label as two classes, absent and "
            "present."
        )


def check_projections(student: nn.Module) -> None:
    """Refuse projections that no checkpoint would have.

    Raises:
        ValueError: the student has adapters, and hidden states that are projected to the teacher's width.
    """
    if hasattr(student, KD_PROJECTIONS) and unwrap_peft_model(student) is not student:
        raise ValueError(
            "kd_losses: hidden states of student and teacher have different widths, and of a student with adapters "
            "PEFT saves adapters alone, and no projection: take a student of the teacher's width, or losses of logits."
        )


def check_top_logits(args: DistillationConfig, student: nn.Module, num_outputs: int) -> None:
    """Check that `cache_top_logits` fits the student, and that a language model caches hidden states only with it.

    Raises:
        ValueError: the student is no causal model or has fewer outputs; or `cache_hidden_states` alone would keep
            nothing.
    """
    top_logits = args.cache_top_logits
    if args.cache_hidden_states and top_logits is None and is_causal(student):
        raise ValueError(
            "cache_hidden_states=True: for a language model, hidden states are cached together with its largest "
            "logits: also set cache_top_logits, or leave cache_hidden_states out."
        )
    if top_logits is not None and not (is_causal(student) and top_logits <= num_outputs):
        raise ValueError(
            f"cache_top_logits={top_logits} is for language models of larger vocabularies, and the student, a "
            f"{type(student).__name__}, has {num_outputs} output(s): leave it out."
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
        "process a GPU with `accelerate launch`, or set CUDA_VISIBLE_DEVICES to one.": args.n_gpu > 1,
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


def steps_with_adam(args: DistillationConfig, optimizer: Optimizer | None, given: tuple[Any, Any] | None) -> bool:
    """Whether torch's Adam or AdamW makes the steps.

    Args:
        args: settings of the run, whose `optim` counts where neither of the following is given.
        optimizer: the caller's optimizer.
        given: class and arguments of one (`optimizer_cls_and_kwargs`).
    """
    if optimizer is not None:
        return isinstance(getattr(optimizer, "optimizer", optimizer), Adam)
    return args.optim in ADAM_OPTIMIZERS if given is None else issubclass(given[0], Adam)


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


def check_student_weights(student: nn.Module, optimizer: Optimizer | None, measures: bool = True) -> None:
    """Refuse a student whose optimizer has other trainable parameters, or that is spread over devices, or in fp16.

    Args:
        student: with its projections.
        optimizer: the caller's optimizer; None for the Trainer's own.
        measures: whether the rule does, which takes the gradients of the student alone.

    Raises:
        ValueError: it was sharded or placed on several devices when it was loaded, or the optimizer has only some of
            the trainable parameters, or others than the student's, or these are fp16.
    """
    trained = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    if any(isinstance(parameter, DTensor) for parameter in trained.values()):
        raise ValueError(
            "the student was sharded when it was loaded, and the Trainer does not support this: load it without "
            "distributed_config, tp_plan and the like, and let `accelerate launch` shard it (FSDP2)."
        )
    if is_placed(student):
        raise ValueError(
            "device_map placed the student on several devices, of which λ needs the gradients on one: load it without "
            "device_map, and let `accelerate launch` shard it (FSDP2) if it does not fit."
        )
    if any(parameter.dtype == torch.float16 for parameter in trained.values()):
        raise ValueError(
            "the student's weights are fp16, in which small updates are lost and Adam divides by zero: load it with "
            "dtype=torch.float32, and set precision to fp16 for a GPU's autocast."
        )
    if optimizer is None:
        return
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if missing := [name for name, parameter in trained.items() if id(parameter) not in stepped]:
        raise ValueError(
            f"optimizers: {len(missing)} trainable parameter(s), such as {missing[0]}, are not in the optimizer: "
            "freeze them (requires_grad_(False)), or give optimizer_cls_and_kwargs instead, from which the Trainer "
            "makes an optimizer of all, projections to the teacher's width too."
        )
    own = {id(parameter) for parameter in student.parameters()}
    others = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad and id(p) not in own]
    if measures and others:
        raise ValueError(
            f"optimizers: {len(others)} parameter(s), such as one of shape {tuple(others[0].shape)}, are not the "
            "student's, whose gradients alone are measured: leave them out, or set lambda_rule to fixed."
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


def check_class_weights(
    args: DistillationConfig, student: nn.Module, num_outputs: int, has_own_task_loss: bool
) -> None:
    """Refuse weights of classes where there are none, or where the task loss is the user's own.

    Raises:
        ValueError: names the setting and the fix.
    """
    if args.class_weights is None:
        return
    if num_outputs == 1 or is_multi_label(student) or is_causal(student) or answers_questions(student):
        raise ValueError(
            f"class_weights={args.class_weights!r} is for classes, and a {type(student).__name__} of {num_outputs} "
            "output(s) has none to weigh: leave it out."
        )
    if has_own_task_loss:
        raise ValueError(f"class_weights={args.class_weights!r} does not reach compute_loss_func: leave either out.")


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
