"""Fingerprints of models and of examples: the same on every machine for the same content."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

DIGITS = 24  # hexadecimal, 96 bits: no two contents will ever share them


def fingerprint(parts: Iterable[str]) -> str:
    """One fingerprint of several, in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:DIGITS]


def model_digest(model: PreTrainedModel) -> str:
    """Fingerprint of a model's class, configuration and weights."""
    sha = hashlib.sha256(type(model).__name__.encode())
    sha.update(model.config.to_json_string(use_diff=True).encode())
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


def _add_tensors(sha: "hashlib._Hash", tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
