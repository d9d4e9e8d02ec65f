"""Students that cannot be trained with the settings of a run are refused before training, and the fix is named."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers import PreTrainedConfig
from transformers.trainer_utils import unwrap_peft_model

from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.models.causal import is_causal
from hf_kd_lambda.models.loaded_forms import is_placed
from hf_kd_lambda.models.projections import KD_PROJECTIONS
from hf_kd_lambda.models.protocol import answers_questions, is_multi_label
from hf_kd_lambda.trainer.config import DistillationConfig


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


def check_smoothing(args: DistillationConfig, num_outputs: int, has_own_task_loss: bool) -> None:
    """Refuse label smoothing where there are no classes, or where the task loss is the user's own.

    Raises:
        ValueError: names the setting and the fix.
    """
    given = f"label_smoothing_factor={args.label_smoothing_factor}"
    if args.label_smoothing_factor and has_own_task_loss:
        raise ValueError(f"{given} does not reach compute_loss_func: leave either out.")
    if args.label_smoothing_factor and num_outputs == 1:
        raise ValueError(f"{given} smooths classes, and the labels are numbers: leave it out.")


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
