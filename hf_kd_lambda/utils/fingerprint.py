"""Fingerprints of models and examples: the same on every machine for the same content."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedConfig

DIGITS = 24  # hexadecimal, 96 bits: collisions are practically impossible


class NoDigestError(ValueError):
    """The outputs of a model are not determined by its class, configuration and weights."""


def fingerprint(parts: Iterable[str]) -> str:
    """One fingerprint of several strings, in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(model: nn.Module) -> str:
    """Fingerprint of a model's class, configuration and (possibly quantised) weights.

    Raises:
        NoDigestError: it is a plain module, whose code may change under the same name, or a weight has an unknown
            type.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise NoDigestError(f"a {type(model).__name__} has no Transformers configuration to identify it by")
    sha = hashlib.sha256(type(model).__name__.encode())
    sha.update(config.to_json_string(use_diff=True).encode())
    _add_tensors(sha, model.state_dict())
    return sha.hexdigest()


def examples_digest(examples: Dataset, columns: Iterable[str]) -> str:
    """Fingerprint of some columns of a dataset, independent of its file, index mapping and batch size."""
    sha = hashlib.sha256()
    table = examples.select_columns(sorted(columns)).with_format("arrow")
    for batch in table.iter(1000):
        sink = pa.BufferOutputStream()
        # `take` copies the rows, because buffers of a slice contain its neighbours. Metadata names the source.
        rows = batch.replace_schema_metadata(None).combine_chunks().take(pa.array(range(len(batch)), pa.int64()))
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        sha.update(sink.getvalue())
    return sha.hexdigest()


def batch_digest(batch: Mapping[str, Any]) -> str:
    """Fingerprint of a batch's tensors."""
    sha = hashlib.sha256()
    _add_tensors(sha, {name: value for name, value in batch.items() if isinstance(value, Tensor)})
    return sha.hexdigest()


def _add_tensors(sha: "hashlib._Hash", tensors: Mapping[str, Any]) -> None:
    for name, value in sorted(tensors.items()):
        _add_value(sha, name, value)


def _add_value(sha: "hashlib._Hash", name: str, value: Any) -> None:
    """Add a tensor, or the packed weights, types and numbers that quantised layers store instead."""
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            _add_value(sha, f"{name}.{index}", part)
    elif isinstance(value, Tensor) and value.is_meta:
        raise NoDigestError(f"weight {name} is offloaded, and cannot be read")
    elif is_traceable_wrapper_subclass(value):  # of torchao: quantised values, scales, and what describes them
        parts, description = value.__tensor_flatten__()
        _add_value(sha, name, (f"{type(value).__name__} {description!r}", *(getattr(value, part) for part in parts)))
    elif isinstance(value, Tensor):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        value = value.detach().cpu()
        value = value.dequantize() if value.is_quantized else value
        sha.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, torch.dtype | int | float | str | None):
        sha.update(f"{name} {value!r}".encode())
    else:
        raise NoDigestError(f"weight {name} is a {type(value).__name__}, a type without known content")
