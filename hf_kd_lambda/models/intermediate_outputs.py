"""Intermediate outputs of a model: request them, and check that the model returns them."""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, make_dataclass
from functools import cache
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import ModelOutput

OUTPUT_FLAGS = {
    "hidden_states": "output_hidden_states",
    "attentions": "output_attentions",
    "member_logits": "output_member_logits",  # of an `Ensemble`
}
VECTORS = ("query_vectors", "key_vectors", "value_vectors")
# Names of the linear layers for queries, keys and values in an attention block.
QKV_LAYER_NAMES = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))


def forward_flags(needs: Collection[str]) -> dict[str, bool]:
    """Arguments of `forward` that request these outputs."""
    return {flag: True for name, flag in OUTPUT_FLAGS.items() if name in needs}


def gives(config: PreTrainedConfig, name: str) -> bool:
    """Whether a model returns an output by its configuration, without a request."""
    return bool(name in OUTPUT_FLAGS and getattr(config, OUTPUT_FLAGS[name], False))


def check_given(model: nn.Module, outputs: Mapping[str, Any], needs: Collection[str], who: str) -> None:
    """Check that a model returned all requested outputs.

    Args:
        model, who: for the message; `who` is `teacher` or `student`.
        outputs: outputs of the model.
        needs: names of the requested outputs.

    Raises:
        ValueError: an output is missing, for example attention maps or hidden states.
    """
    _refuse_without(
        [name for name in needs if not outputs.get(name) or any(layer is None for layer in outputs[name])], model, who
    )


def check_takes_flags(model: nn.Module, needs: Collection[str], who: str) -> None:
    """Check that a model's `forward` takes the arguments that request outputs: see `check_given`.

    Raises:
        ValueError: it does not.
    """
    parameters = inspect.signature(unwrap_peft_model(model).forward).parameters
    if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        flags = OUTPUT_FLAGS.items()
        _refuse_without([name for name, flag in flags if name in needs and flag not in parameters], model, who)


def _refuse_without(missing: Sequence[str], model: nn.Module, who: str) -> None:
    if missing:
        raise ValueError(
            f"kd_losses: the {who}, a {type(model).__name__}, returns no {' and no '.join(missing)}: use losses on "
            "logits."
        )


def add_attention_vectors(model: PreTrainedModel, who: str) -> None:
    """Make a model return `query_vectors`, `key_vectors` and `value_vectors`, tuples with one tensor per layer.

    Args:
        model: a model with separate linear layers for queries, keys and values.
        who: `teacher` or `student`, for the message.

    Raises:
        ValueError: the model has no such layers.
    """
    layers = list(_attention_layers(model))
    if not layers:
        raise ValueError(
            f"kd_losses: relations need separate queries, keys and values, but the {who}, a {type(model).__name__}, "
            f"has no layers named {', '.join('/'.join(names) for names in QKV_LAYER_NAMES)}: use hidden_mse or pkd."
        )
    found: dict[tuple[str, int], Tensor] = {}
    for index, layer in enumerate(layers):
        for name, linear in zip(VECTORS, layer, strict=True):
            linear.register_forward_hook(_recorder(found, (name, index)))

    def add_vectors(model: nn.Module, args: Any, outputs: ModelOutput) -> ModelOutput:
        vectors = {name: tuple(found[name, index] for index in range(len(layers))) for name in VECTORS}
        found.clear()
        return with_more(outputs, vectors)

    model.register_forward_hook(add_vectors)


def with_more(outputs: Any, more: dict[str, tuple[Tensor, ...]]) -> Any:
    """The outputs with additional ones by name. They replace outputs of the same name (from another trainer's hook).

    All are dataclass fields, because DDP rebuilds outputs from their fields.
    """
    if not isinstance(outputs, ModelOutput):  # a plain module's dictionary
        return {**outputs, **more}
    return _class_with(cast(Any, type(outputs)), tuple(more))(**{**outputs, **more})


@cache
def _class_with(outputs: Any, names: tuple[str, ...]) -> Any:
    if set(names) <= {field.name for field in fields(outputs)}:
        return outputs
    return make_dataclass(f"{outputs.__name__}WithMore", [(name, Any, None) for name in names], bases=(outputs,))


def _recorder(found: dict[tuple[str, int], Tensor], key: tuple[str, int]) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        found[key] = output

    return hook


def _attention_layers(model: nn.Module) -> Iterator[list[nn.Module]]:
    for module in model.modules():
        for names in QKV_LAYER_NAMES:
            linear = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, nn.Module) for layer in linear):
                yield cast(list[nn.Module], linear)
