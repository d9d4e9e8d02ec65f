"""Fingerprints of models and examples: the same on every machine for the same content."""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import pyarrow as pa
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedConfig

_LIBRARIES = {"accelerate", "bitsandbytes", "hf_kd_lambda", "peft", "torch", "torchao", "transformers"}
_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, type(None))
_OF_LOADING = ("name_or_path", "training")  # attributes that do not change a model's outputs
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
    """Fingerprint of a model's class, configuration, (possibly quantised) weights, adapters, and own code.

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
    for name, module in model.named_modules():
        for part in _own_code(module):
            sha.update(f"{name} {part}".encode())
        if hasattr(module, "merged_adapters"):  # a layer of PEFT: which adapters are used, and how much
            used = {part: getattr(module, part, None) for part in _OF_ADAPTERS}
            sha.update(f"{name} {used}".encode())
    return sha.hexdigest()


def _own_code(module: nn.Module) -> Iterator[str]:
    """What decides a module's forward and hooks, except the code of libraries, whose versions are known."""
    seen: set[int] = set()
    for function in (module.forward, *module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        yield from _described(inspect.unwrap(function), seen)


def _described(value: Any, seen: set[int]) -> Iterator[str]:
    """A number, text or tensor itself; of own functions and callable objects their code and what it reads of these.

    Args:
        value: anything; what is none of these is left out.
        seen: ids of functions and objects that are described already.
    """
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, Tensor):
        yield batch_digest({"": value})
    elif isinstance(value, tuple):
        for part in value:
            yield from _described(part, seen)
    elif isinstance(value, partial):
        yield from _described((value.func, value.args, *sorted(value.keywords.items())), seen)
    elif isinstance(value, MethodType):
        if _is_own(value.__func__):
            yield from _described((value.__func__, value.__self__), seen)
    elif id(value) not in seen and not isinstance(value, type):
        seen.add(id(value))
        if _is_own(value):
            yield _instructions(value.__code__)
            yield from _described(_read_by(value), seen)
        elif not isinstance(value, FunctionType) and _is_own(type(value).__call__ if callable(value) else None):
            yield from _described((type(value).__call__, *_attributes(value)), seen)
        elif isinstance(value, nn.Module):  # whose weights are in the state
            yield from _described(tuple(_attributes(value)), seen)


def _is_own(function: Any) -> bool:
    return isinstance(function, FunctionType) and str(function.__module__).partition(".")[0] not in _LIBRARIES


def _read_by(function: FunctionType) -> tuple[Any, ...]:
    """Default arguments of a function, and what the names outside of it stand for that it mentions."""
    outside = inspect.getclosurevars(function)
    named = {name: value for name, value in outside.globals.items() if not name.startswith("__")}
    keywords = function.__kwdefaults__ or {}
    return (function.__defaults__, *(item for names in (keywords, outside.nonlocals, named) for item in names.items()))


def _attributes(value: Any) -> list[tuple[str, Any]]:
    """The public attributes of an object that are numbers or texts."""
    named = sorted(getattr(value, "__dict__", {}).items())
    public = [item for item in named if not item[0].startswith("_") and item[0] not in _OF_LOADING]
    return [item for item in public if isinstance(item[1], _PLAIN)]


def _instructions(code: CodeType) -> str:
    """The instructions, names and constants of code and of its inner functions, the same in every process."""
    constants = [_instructions(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_freevars} {constants}"


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
