"""The interface that a teacher or a student must have. It is checked before training starts.

A model is a `torch.nn.Module`, from Transformers or plain:

- `forward` takes columns of a batch as keyword arguments (only those in its signature are passed). It returns logits
  `[examples, ..., classes]`, or `[examples, 1]` for regression: as a `ModelOutput` or mapping with the key `logits`,
  as an object with this attribute, as a tensor, or as a tuple. In a tuple, the logits are the first tensor with at
  least two dimensions, so a loss may precede them.
- For question answering, `forward` has the parameter `start_positions` (which is not passed) and returns a mapping
  with `start_logits` and `end_logits` `[examples, length]`. Together they are the logits `[examples, length, 2]`.
- A student has trainable parameters. A teacher may have none (an ensemble, a lookup table).
- `config` is optional. If present, `num_labels` (`vocab_size` for a causal language model) is the number of outputs,
  and `id2label` gives their order. Without it, the number is taken from the logits, and the classes must be in the
  order of the data's labels.

Not supported: encoder-decoders that generate text, questions about tables and documents, encoders without a head.
"""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto import modeling_auto
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import ModelOutput, logging

from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.models.loaded_forms import is_quantised

logger = logging.get_logger(__name__)

_SUPPORTED_TASKS = (
    "CAUSAL_LM",
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "QUESTION_ANSWERING",
    "IMAGE_CLASSIFICATION",
)
_LABELS = ("labels", "label", "label_ids", "start_positions", "end_positions")
SPAN_LOGITS = ("start_logits", "end_logits")
_LOAD_A_HEAD = "load the checkpoint with a head, for example with AutoModelForSequenceClassification"
_UNSUPPORTED = (
    (
        ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ"),
        "is an encoder-decoder that generates text, which is not supported: use a decoder (AutoModelForCausalLM) or "
        "a classifier",
    ),
    (
        ("DOCUMENT_QUESTION_ANSWERING", "TABLE_QUESTION_ANSWERING"),
        "answers questions about tables or documents, which is not supported: use a model for questions about texts "
        "(AutoModelForQuestionAnswering)",
    ),
    ((), f"is an encoder without a head, which returns no logits: {_LOAD_A_HEAD}"),
)


def check_model(model: Any, who: str) -> nn.Module:
    """Check a model, and return it without `torch.compile`'s wrapper.

    Whether `forward` returns logits needs a batch, and is checked by `as_model_output`.

    Args:
        model: the user's teacher or student.
        who: `teacher` or `student`, for messages.

    Raises:
        ValueError: it is not a module, has no `forward`, is of an unsupported kind, or is a student without trainable
            weights. The message says what to use.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{who}={_shown(model)} is a {type(model).__name__}, not a torch.nn.Module: load the model first, for "
            "example with AutoModelForSequenceClassification.from_pretrained."
        )
    model = _uncompiled(model, who)
    model_class = _class_of_forward(unwrap_peft_model(model))
    if model_class is nn.Module:
        raise ValueError(f"the {who}, a {type(model).__name__}, has no forward: define one that returns logits.")
    parameters = inspect.signature(unwrap_peft_model(model).forward).parameters
    required = [name for name in _LABELS if name in parameters and parameters[name].default is inspect.Parameter.empty]
    if required:
        raise ValueError(
            f"the {who}, a {type(model).__name__}, has a forward that requires {required[0]}, which are not passed, "
            f"because the loss is computed from its logits: give them a default, {required[0]}=None."
        )
    if reason := _why_unsupported(model_class):
        raise ValueError(f"the {who}, a {type(model).__name__}, {reason}.")
    if who == "student":
        _check_trainable(model)
    return model


def as_model_output(outputs: Any, model: nn.Module, who: str) -> ModelOutput:
    """Convert the outputs of a model to a `ModelOutput` with `logits`; such outputs are returned unchanged.

    Args:
        outputs: outputs of the model's `forward`, see the interface above.
        model, who: for messages.

    Raises:
        ValueError: the outputs have no logits `[examples, ..., classes]`.
    """
    logits = _find_logits(outputs)
    if logits is None:
        raise ValueError(
            f"the {who}, a {type(model).__name__}, returns no logits [examples, ..., classes] but "
            f"{_described(outputs)}: return them under the key 'logits', or as the only tensor."
        )
    if isinstance(outputs, ModelOutput) and "logits" in outputs:
        return outputs
    result = SequenceClassifierOutput(logits=logits)
    for name, value in outputs.items() if isinstance(outputs, Mapping) else ():
        result[name] = value
    return result


def answers_questions(model: nn.Module) -> bool:
    """Whether a model, or the base model of a `PeftModel`, is for extractive question answering."""
    return "start_positions" in inspect.signature(unwrap_peft_model(model).forward).parameters


def is_token_level(model: nn.Module) -> bool:
    """Whether a model, or the base model of a `PeftModel`, classifies each token."""
    return "TokenClassification" in type(unwrap_peft_model(model)).__name__


def is_multi_label(model: nn.Module) -> bool:
    """Whether a model has several labels per example, each absent or present."""
    return bool(cast(Any, model).config.problem_type == MULTI_LABEL)


def model_config(model: nn.Module) -> Any | None:
    """A model's configuration; None for a plain module, even if it has another attribute `config`."""
    config = getattr(model, "config", None)
    return config if hasattr(config, "num_labels") else None


def text_config(model: nn.Module) -> Any:
    """The part of a model's configuration that is about texts, all if it reads nothing else; None without one."""
    config = getattr(model, "config", None)
    return config.get_text_config() if isinstance(config, PreTrainedConfig) else config


def vocabulary_size(model: nn.Module) -> int | None:
    """The number of tokens that a model has embeddings for, by its configuration; None if that does not tell."""
    return getattr(text_config(model), "vocab_size", None)


def model_device(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU if there is none."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def _uncompiled(model: nn.Module, who: str) -> nn.Module:
    """The module inside `torch.compile`'s wrapper; other models unchanged. The wrapper hides the inputs' names."""
    compiled = getattr(model, "_orig_mod", None)
    if not isinstance(compiled, nn.Module):
        return model
    fix = " Set torch_compile=True to compile it." if who == "student" else ""
    logger.warning(f"the {who} is compiled by torch.compile, which hides its inputs: it runs uncompiled.{fix}")
    return compiled


def _class_of_forward(model: nn.Module) -> type:
    """The class that defines the model's `forward`: a subclass with its own forward is assumed to return logits."""
    return next(base for base in type(model).__mro__ if "forward" in vars(base))


def _why_unsupported(model_class: type) -> str | None:
    """Why a Transformers class is not supported; None for all other classes."""
    name = model_class.__name__
    if not model_class.__module__.startswith("transformers.") or name in _names_of(_SUPPORTED_TASKS):
        return None
    for tasks, reason in _UNSUPPORTED:
        if name in (_names_of(tasks) if tasks else _names(modeling_auto.MODEL_MAPPING_NAMES)):
            return reason
    return None


def _names_of(tasks: tuple[str, ...]) -> set[str]:
    """Names of Transformers' model classes for some tasks."""
    return set().union(*(_names(getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")) for task in tasks))


def _names(mapping: Mapping[str, Any]) -> set[str]:
    """The class names in one of Transformers' mappings; a model type may have several."""
    return {name for names in mapping.values() for name in ([names] if isinstance(names, str) else names)}


def _check_trainable(student: nn.Module) -> None:
    name = type(student).__name__
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(
            f"the student, a {name}, has no trainable parameters: unfreeze it with requires_grad_(True), or add "
            "adapters."
        )
    if unwrap_peft_model(student) is student and is_quantised(student):
        raise ValueError(
            f"the student, a {name}, has quantised layers, which cannot be trained: train in fp32 or bf16, and "
            "quantise afterwards."
        )


def _find_logits(outputs: Any) -> Tensor | None:
    if isinstance(outputs, Mapping):
        spans = [outputs[name] for name in SPAN_LOGITS if name in outputs]
        candidates = [torch.stack(spans, dim=-1) if len(spans) == 2 else outputs.get("logits")]
    elif isinstance(outputs, Tensor):
        candidates = [outputs]
    elif hasattr(outputs, "logits"):
        candidates = [outputs.logits]
    else:
        candidates = list(outputs) if isinstance(outputs, tuple | list) else []
    found = (value for value in candidates if isinstance(value, Tensor))
    return next((tensor for tensor in found if tensor.dim() >= 2 and tensor.is_floating_point()), None)


def _described(outputs: Any) -> str:
    """Type, names and shape of outputs, for messages."""
    if isinstance(outputs, Tensor):
        return f"a tensor of {outputs.dtype} and shape {list(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs)) or 'nothing'}"
    return f"a {type(outputs).__name__}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
