"""Fingerprints of models and examples: the same on every machine for the same content."""

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedConfig

_LIBRARIES = {"accelerate", "bitsandbytes", "hf_kd_lambda", "peft", "torch", "torchao", "transformers"}
_LIBRARIES |= sys.stdlib_module_names
_INSTALLED = {"site-packages", "dist-packages"}
_STARTED = time.time()
# In the fingerprint already, or without influence on the outputs.
_NO_ATTRIBUTES = {*vars(nn.Module()), "config", "name_or_path", "forward", "_old_forward", "_hf_hook"}
_OF_ADAPTERS = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
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
    """Fingerprint of a model's modules, configuration, (possibly quantised) weights, adapters, and own code.

    Raises:
        NoDigestError: it is a plain module, whose code may change under the same name; a weight has an unknown type;
            or its own code cannot be identified.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise NoDigestError(f"a {type(model).__name__} has no Transformers configuration to identify it by")
    sha = hashlib.sha256(repr(model).encode())
    sha.update(config.to_json_string(use_diff=True).encode())
    _add_tensors(sha, model.state_dict())
    for part in _own_code(model):
        sha.update(part.encode())
    for name, module in model.named_modules():
        if hasattr(module, "merged_adapters"):  # a layer of PEFT: which adapters are used, and how much
            used = {part: getattr(module, part, None) for part in _OF_ADAPTERS}
            sha.update(f"{name} {used}".encode())
    return sha.hexdigest()


def _own_code(model: nn.Module) -> Iterator[str]:
    """Source and attributes of a model's own classes and hooks. Those of libraries are known by version and config.

    Raises:
        NoDigestError: the source or the attributes cannot be read.
    """
    own: set[str] = set()
    for name, module in model.named_modules():
        given = (vars(module).get("forward"), *module._forward_pre_hooks.values(), *module._forward_hooks.values())
        functions = [function for function in given if function is not None and _is_own(function)]
        parts = [part for part in (*type(module).__mro__, *functions) if _is_own(part)]
        own |= {*map(_module_of, parts)}
        if parts:
            buffers = dict(module.named_buffers(recurse=False))  # some are not in the state
            yield f"{name} {batch_digest(buffers)} {_attributes(module, functions)}"
    if own:
        yield from _sources(own)


def _is_own(value: Any) -> bool:
    """Whether a class, function or other callable object is of no library with a known version."""
    return _package(_module_of(value)) not in _LIBRARIES


def _module_of(value: Any) -> str:
    while isinstance(value, partial):
        value = value.func
    return str(value.__module__)


def _attributes(module: nn.Module, functions: list[Any]) -> str:
    """Fingerprint of the attributes of a module, and of those of its hooks."""
    values = {name: value for name, value in vars(module).items() if name not in _NO_ATTRIBUTES}
    try:
        return Hasher.hash([functions, sorted(values.items(), key=itemgetter(0))])
    except Exception as error:  # whatever the attributes' types raise
        raise NoDigestError(f"the attributes of its {type(module).__name__} cannot be pickled ({error})") from error


def _sources(own: Set[str]) -> Iterator[str]:
    """All loaded source files outside of installed packages, since own code may read any, and those of its packages.

    Args:
        own: names of the modules that have own code.
    """
    packages = {*map(_package, own)}
    named = {name: Path(getattr(module, "__file__", None) or "") for name, module in sys.modules.items()}
    files = {name: file for name, file in named.items() if _package(name) not in _LIBRARIES and file.is_file()}
    if absent := sorted(own - files.keys()):
        raise NoDigestError(f"its code in {absent[0]} is in no file, which would show whether it has changed")
    for name, file in sorted(files.items()):
        if _package(name) not in packages and _INSTALLED & {*file.parts}:
            continue
        # Transformers copies a checkpoint's code to `transformers_modules` just before it imports it.
        if _package(name) != "transformers_modules" and file.stat().st_mtime > _STARTED:
            raise NoDigestError(f"{file} has changed since this process imported it: restart to cache the outputs")
        yield f"{name} {file_digest(file)}"


def _package(module: str) -> str:
    return module.partition(".")[0]


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
