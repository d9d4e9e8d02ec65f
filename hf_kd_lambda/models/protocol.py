"""What a teacher or a student must offer. It is checked before training starts.

A model is a `torch.nn.Module`, of Transformers or plain:

- `forward` takes columns of a batch by their names (of which only those that its signature names are passed) and
  returns logits `[examples, ..., classes]`, or `[examples, 1]` for a regression: as a `ModelOutput` or mapping with
  the key `logits`, as an object with that attribute, as a bare tensor, or as a tuple. In a tuple, the logits are the
  first tensor of at least two dimensions, so that a loss may come before them.
- For question answering, `forward` takes `start_positions`, which it is not given, and returns a mapping with
  `start_logits` and `end_logits` `[examples, length]`. Together they are the logits `[examples, length, 2]`.
- A student has trainable parameters. A teacher needs none, as an ensemble or a table of answers.
- `config` is optional. Where there is one, `num_labels` (`vocab_size` for a causal language model) is the number of
  outputs and `id2label` their order. Without it, the logits tell the number, and the classes must be in the order of
  the data's labels.

Not supported: encoder-decoders that generate text, questions about tables and documents, encoders without a head.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto import modeling_auto
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import ModelOutput, logging

from hf_kd_lambda.models.causal import is_causal

logger = logging.get_logger(__name__)

_SUPPORTED_TASKS = (
    "CAUSAL_LM",
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "QUESTION_ANSWERING",
    "IMAGE_CLASSIFICATION",
)
SPAN_LOGITS = ("start_logits", "end_logits")
_LOAD_A_HEAD = "load the checkpoint with a head, for example by AutoModelForSequenceClassification"
_UNSUPPORTED = (
    (
        ("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ"),
        "is an encoder-decoder that generates text, which is not supported: take a decoder (AutoModelForCausalLM) or "
        "a classifier",
    ),
    (
        ("DOCUMENT_QUESTION_ANSWERING", "TABLE_QUESTION_ANSWERING"),
        "answers questions about tables or documents, which is not supported: take a model for questions about texts "
        "(AutoModelForQuestionAnswering)",
    ),
    ((), f"is an encoder without a head, which returns no logits: {_LOAD_A_HEAD}"),
)


def check_model(model: Any, who: str) -> nn.Module:
    """The model itself, taken out of `torch.compile`'s wrapper, once it is sure that it may be used.

    What only a batch can show, a `forward` without logits, is checked by `as_model_output`.

    Args:
        model: as the user gave it.
        who: `teacher` or `student`, for messages.

    Raises:
        ValueError: it is no module, computes nothing, returns no logits of one distribution per item, or is a student
            without trainable weights. The message says what to give.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{who}={_shown(model)} is a {type(model).__name__}, not a torch.nn.Module: load the model first, for "
            "example by AutoModelForSequenceClassification.from_pretrained."
        )
    model = _uncompiled(model, who)
    kind = _class_of_forward(unwrap_peft_model(model))
    if kind is nn.Module:
        raise ValueError(f"the {who}, a {type(model).__name__}, has no forward: define one that returns logits.")
    if reason := _why_unsupported(kind):
        raise ValueError(f"the {who}, a {type(model).__name__}, {reason}.")
    if who == "student":
        _check_trainable(model)
    return model


def as_model_output(outputs: Any, model: nn.Module, who: str) -> ModelOutput:
    """What a model returned, as a `ModelOutput` with `logits`; a `ModelOutput` that has them stays as it is.

    Args:
        outputs: of the model's `forward`, see the protocol above.
        model, who: for messages.

    Raises:
        ValueError: there are no logits `[examples, ..., classes]` in it.
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
    """Whether a model, or the base model of a `PeftModel`, finds the start and the end of an answer."""
    return "start_positions" in inspect.signature(unwrap_peft_model(model).forward).parameters


def model_config(model: nn.Module) -> Any | None:
    """A model's configuration; None for a plain module, whose `config`, if any, is not Transformers'."""
    config = getattr(model, "config", None)
    return config if hasattr(config, "num_labels") else None


def num_outputs(model: nn.Module) -> int | None:
    """Number of classes, tokens, or 1 for a regression, from the configuration; None where only the logits tell it."""
    config = model_config(model)
    if config is None:
        return None
    return config.vocab_size if is_causal(model) else config.num_labels


def model_device(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU for a model without any."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def _uncompiled(model: nn.Module, who: str) -> nn.Module:
    """The module that `torch.compile` wraps, whose signature tells its inputs; other models as they are."""
    compiled = getattr(model, "_orig_mod", None)
    if not isinstance(compiled, nn.Module):
        return model
    fix = " Set torch_compile=True to compile it." if who == "student" else ""
    logger.warning(f"the {who} is compiled by torch.compile, which hides its inputs: it runs uncompiled.{fix}")
    return compiled


def _class_of_forward(model: nn.Module) -> type:
    """The class that defines the model's `forward`: a subclass with a forward of its own is trusted to give logits."""
    return next(kind for kind in type(model).__mro__ if "forward" in vars(kind))


def _why_unsupported(kind: type) -> str | None:
    """Why a class of Transformers cannot be used; None for others."""
    if not kind.__module__.startswith("transformers.") or kind.__name__ in _names_of(_SUPPORTED_TASKS):
        return None
    for tasks, reason in _UNSUPPORTED:
        if kind.__name__ in (_names_of(tasks) if tasks else _names(modeling_auto.MODEL_MAPPING_NAMES)):
            return reason
    return None


def _names_of(tasks: tuple[str, ...]) -> set[str]:
    """Names of Transformers' models for some tasks."""
    return set().union(*(_names(getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")) for task in tasks))


def _names(mapping: Mapping[str, Any]) -> set[str]:
    """The class names in one of Transformers' mappings, where a model type may have several classes."""
    return {name for names in mapping.values() for name in ([names] if isinstance(names, str) else names)}


def _check_trainable(student: nn.Module) -> None:
    name = type(student).__name__
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ValueError(
            f"the student, a {name}, has no trainable parameter: unfreeze it with requires_grad_(True), or add "
            "adapters."
        )
    if any(".nn.quantized" in type(module).__module__ for module in student.modules()):
        raise ValueError(
            f"the student, a {name}, has quantised layers, which cannot be trained: train it in fp32 or bf16, and "
            "quantise it afterwards."
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
    """The kind of some outputs, with names and shapes as far as they have any."""
    if isinstance(outputs, Tensor):
        return f"a tensor of {outputs.dtype} and shape {list(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs)) or 'nothing'}"
    return f"a {type(outputs).__name__}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
