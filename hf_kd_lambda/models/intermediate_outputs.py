"""What of a model is needed beside its logits: how to ask for it, and how to tell that a model does not give it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, make_dataclass
from functools import cache
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

FLAGS = {"hidden_states": "output_hidden_states", "attentions": "output_attentions"}
VECTORS = ("query_vectors", "key_vectors", "value_vectors")
# Names of the linear layers of an attention block that make queries, keys and values.
PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"))


def forward_flags(needs: Collection[str]) -> dict[str, bool]:
    """Arguments of a model's `forward` that ask for these outputs."""
    return {flag: True for name, flag in FLAGS.items() if name in needs}


def gives(config: PreTrainedConfig, name: str) -> bool:
    """Whether a model is configured to give an output without being asked."""
    return bool(name in FLAGS and getattr(config, FLAGS[name], False))


def check_given(model: nn.Module, outputs: Mapping[str, Any], needs: Collection[str], who: str) -> None:
    """Refuse a model that has not given all that was asked for.

    Raises:
        ValueError: it gives no attention maps, or no hidden states.
    """
    missing = [name for name in needs if not outputs.get(name) or any(each is None for each in outputs[name])]
    if missing:
        raise ValueError(
            f"kd_losses: the {who}, a {type(model).__name__}, gives no {' and no '.join(missing)}: take losses of its "
            "logits."
        )


def add_attention_vectors(model: PreTrainedModel, who: str) -> None:
    """Have a model put out its `query_vectors`, `key_vectors` and `value_vectors`, a tensor of each for each layer.

    Args:
        model: whose attention blocks have a linear layer for each of the three.
        who: it is, for the message.

    Raises:
        ValueError: it has no such layers.
    """
    layers = list(_attention_layers(model))
    if not layers:
        raise ValueError(
            f"kd_losses: relations need queries, keys and values apart, and the {who}, a {type(model).__name__}, "
            f"has no layers named {', '.join('/'.join(names) for names in PROJECTIONS)}: take hidden_mse or pkd."
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
    """The outputs and more, by name; what they have under such names already, from another trainer's hook, gives way.

    They are fields, since DDP takes outputs apart and makes them anew by their fields.
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
        for names in PROJECTIONS:
            linear = [getattr(module, name, None) for name in names]
            if all(isinstance(each, nn.Module) for each in linear):
                yield cast(list[nn.Module], linear)
