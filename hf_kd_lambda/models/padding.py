"""The padding token of tokenizer and model, and whether a model reads padding."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_kd_lambda.models.loaded_forms import HALF_DTYPES, is_quantised
from hf_kd_lambda.models.protocol import as_model_output, model_device, text_config
from hf_kd_lambda.utils.evaluation_mode import evaluation_mode

_TOLERANCE = 1e-3  # of logits, relative to the largest above 1: far above rounding in float32
_ROUGH_TOLERANCE = 0.1  # of a model that computes in half precision, or is quantised


def ensure_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set a missing padding token to the end-of-text token, in place.

    Raises:
        ValueError: the tokenizer has neither.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has neither pad_token nor eos_token, so it cannot pad a "
                "batch: set pad_token in its tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token


def align_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set `pad_token_id` of a model's configuration to the tokenizer's padding token, in place.

    A decoder classifies a text by its last token that is not `pad_token_id`. With a wrong or missing id it would use
    padding.

    Raises:
        ValueError: the tokenizer has no padding token, or the model has no embedding for it.
    """
    ensure_pad_token(tokenizer)
    config, pad = text_config(model), tokenizer.pad_token_id
    size = getattr(config, "vocab_size", None)
    if size is not None and pad >= size:
        who = getattr(model, "name_or_path", None) or type(model).__name__
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} pads with token {pad}, but {who!r} has embeddings for {size} "
            "tokens only: set pad_token in tokenizer_config.json to one of these, such as its eos_token."
        )
    if config.pad_token_id != pad and not model.config.is_encoder_decoder:
        config.pad_token_id = pad


class ModelBatch(NamedTuple):
    """A batch as a model gets it."""

    inputs: Mapping[str, Tensor]
    mask: Tensor | None
    """`[examples, length]`, 0 for padding; None if unknown."""


@torch.no_grad()
def padding_difference(model: nn.Module, who: str, alone: Sequence[ModelBatch], padded: ModelBatch) -> float:
    """How far padding changes a model's logits, in evaluation mode; 0 if by no more than rounding.

    Args:
        model: a model for any task.
        who: teacher or student, for messages.
        alone: batches of one example.
        padded: one batch of all these examples.

    Raises:
        ValueError: the model returns no logits.
    """
    with evaluation_mode(model), _computed_dtypes(model) as dtypes:
        expected = [_logits(model, who, batch)[0] for batch in alone]
        found = _logits(model, who, padded)
    tolerance = _ROUGH_TOLERANCE if dtypes.intersection(HALF_DTYPES) or is_quantised(model) else _TOLERANCE
    largest = 0.0
    for one, together in zip(expected, found, strict=True):
        scale = max(1.0, one.nan_to_num(0, 0, 0).abs().max().item())
        if not torch.allclose(together, one, rtol=0, atol=tolerance * scale, equal_nan=True):
            largest = max(largest, (one - together).abs().nan_to_num().max().item())
    return largest


@contextmanager
def _computed_dtypes(model: nn.Module) -> Iterator[set[torch.dtype]]:
    """The dtypes of the tensors that modules return: under autocast, others than the weights have.

    A model that `Trainer` trained with `bf16` keeps its autocast.
    """
    dtypes: set[torch.dtype] = set()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            dtypes.add(output.dtype)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield dtypes
    finally:
        for hook in hooks:
            hook.remove()


def _logits(model: nn.Module, who: str, batch: ModelBatch) -> list[Tensor]:
    """The logits of each example, of tokens those that are no padding."""
    inputs = {name: value.to(model_device(model)) for name, value in batch.inputs.items()}
    logits = as_model_output(model(**inputs), model, who).logits.float().cpu()
    if logits.dim() < 3 or batch.mask is None:
        return list(logits)
    return [row[mask.bool()] for row, mask in zip(logits, batch.mask.cpu(), strict=True)]
