"""Outputs of a model other than its logits: how to request them, and how to check that the model returns them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, make_dataclass
from functools import cache
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

OUTPUT_FLAGS = {"hidden_states": "output_hidden_states", "attentions": "output_attentions"}
VECTORS = ("query_vectors", "key_vectors", "value_vectors")
# Names of the linear layers of an attention block that compute queries, keys and values.
QKV_LAYER_NAMES = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))


def forward_flags(needs: Collection[str]) -> dict[str, bool]:
    """Arguments of a model's `forward` that request these outputs."""
    return {flag: True for name, flag in OUTPUT_FLAGS.items() if name in needs}


def gives(config: PreTrainedConfig, name: str) -> bool:
    """Whether a model is configured to return an output without a request."""
    return bool(name in OUTPUT_FLAGS and getattr(config, OUTPUT_FLAGS[name], False))


def check_given(model: nn.Module, outputs: Mapping[str, Any], needs: Collection[str], who: str) -> None:
    """Refuse a model that did not return all requested outputs.

    Raises:
        ValueError: it returned no attention maps, or no hidden states.
    """
    missing = [name for name in needs if not outputs.get(name) or any(layer is None for layer in outputs[name])]
    if missing:
        raise ValueError(
            f"kd_losses: the {who}, a {type(model).__name__}, returns no {' and no '.join(missing)}: take losses of "
            "its logits."
        )


def add_attention_vectors(model: PreTrainedModel, who: str) -> None:
    """Make a model return `query_vectors`, `key_vectors` and `value_vectors`, with one tensor per layer in each.

    Args:
        model: its attention blocks have a linear layer for each of the three.
        who: `teacher` or `student`, for the message.

    Raises:
        ValueError: the model has no such layers.
    """
    layers = list(_attention_layers(model))
    if not layers:
        raise ValueError(
            f"kd_losses: relations need separate queries, keys and values, but the {who}, a {type(model).__name__}, "
            f"has no layers named {', '.join('/'.join(names) for names in QKV_LAYER_NAMES)}: take hidden_mse or pkd."
        )
    found: dict[tuple[str, int], Tensor] = {}
    for index, layer in enumerate(layers):
        for name, linear in zip(VECTORS, layer, strict=True):
            linear.register_forward_hook(_note(found, (name, index)))

    def put_out(model: nn.Module, args: Any, outputs: ModelOutput) -> ModelOutput:
        vectors = {name: tuple(found[name, index] for index in range(len(layers))) for name in VECTORS}
        found.clear()
        return with_more(outputs, vectors)

    model.register_forward_hook(put_out)


def with_more(outputs: ModelOutput, more: dict[str, tuple[Tensor, ...]]) -> ModelOutput:
    """The outputs with more, by name, which replace outputs of the same name, as of another trainer's hook.

    All are dataclass fields, as DDP takes outputs apart and rebuilds them by their fields.
    """
    return _kind_with(cast(Any, type(outputs)), tuple(more))(**{**outputs, **more})


@cache
def _kind_with(outputs: Any, names: tuple[str, ...]) -> Any:
    if set(names) <= {field.name for field in fields(outputs)}:
        return outputs
    return make_dataclass(f"{outputs.__name__}WithMore", [(name, Any, None) for name in names], bases=(outputs,))


def _note(found: dict[tuple[str, int], Tensor], key: tuple[str, int]) -> Any:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        found[key] = output

    return hook


def _attention_layers(model: nn.Module) -> Iterator[list[nn.Module]]:
    for module in model.modules():
        for names in QKV_LAYER_NAMES:
            linear = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, nn.Module) for layer in linear):
                yield cast(list[nn.Module], linear)
