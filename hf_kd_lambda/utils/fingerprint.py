"""Fingerprints of models and of examples: the same on every machine for the same content."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedConfig

DIGITS = 24  # hexadecimal, 96 bits: no two contents will ever share them


class NoDigestError(ValueError):
    """What a model computes cannot be told from its class, configuration and weights."""


def fingerprint(parts: Iterable[str]) -> str:
    """One fingerprint of several, in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(model: nn.Module) -> str:
    """Fingerprint of a model's class, configuration and weights, which may be quantised.

    Raises:
        NoDigestError: it is a plain module, whose code may change under the same name, or some weights are of a kind
            that has no known content.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise NoDigestError(f"a {type(model).__name__} has no configuration that would tell what it computes")
    sha = hashlib.sha256(type(model).__name__.encode())
    sha.update(config.to_json_string(use_diff=True).encode())
    _add_tensors(sha, model.state_dict())
    return sha.hexdigest()


def examples_digest(examples: Dataset, columns: Iterable[str]) -> str:
    """Fingerprint of some columns of a dataset, whatever file, index or batch size it is read from."""
    sha = hashlib.sha256()
    table = examples.select_columns(sorted(columns)).with_format("arrow")
    for batch in table.iter(1000):
        sink = pa.BufferOutputStream()
        # All rows are taken, since the buffers of a slice hold its neighbours; without metadata of where all are from.
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
    """Add a tensor, or what quantised layers have in its place: packed weights, types and numbers."""
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            _add_value(sha, f"{name}.{index}", part)
    elif isinstance(value, Tensor):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        value = value.detach().cpu()
        value = value.dequantize() if value.is_quantized else value
        sha.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, torch.dtype | int | float | str | None):
        sha.update(f"{name} {value!r}".encode())
    else:
        raise NoDigestError(f"weight {name} is a {type(value).__name__}, whose content is not known")
