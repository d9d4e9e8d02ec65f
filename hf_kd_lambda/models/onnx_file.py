"""Models as ONNX files: written, quantised to int8, and run by onnxruntime."""

import functools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from hf_kd_lambda.models.protocol import SPAN_LOGITS

ONNX_OUTPUTS = ("logits", *SPAN_LOGITS)


def require_onnx() -> None:
    """Import what exports, quantises and runs ONNX files.

    Raises:
        ModuleNotFoundError: the [onnx] extra is not installed.
    """
    try:
        import onnxruntime.quantization  # noqa: F401
        import onnxscript  # noqa: F401  which torch.onnx needs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'hf-kd-lambda[onnx]'") from error


def write_onnx(model: PreTrainedModel, example: Mapping[str, Tensor], path: Path) -> None:
    """Write a model to an ONNX file that takes batches of any size, and texts of any length.

    Args:
        model: in fp32 and eval mode.
        example: inputs of at least two examples; for texts `input_ids` `[examples, length]` and what has their shape.
        path: path of the file.

    Raises:
        ValueError: torch cannot export the model.
    """
    with torch.inference_mode():
        outputs = model(**example)
    texts = example["input_ids"].shape if "input_ids" in example else None
    free = torch.export.Dim.DYNAMIC
    shapes = {name: {0: free, 1: free} if value.shape == texts else {0: free} for name, value in example.items()}
    try:
        with _without_others_warnings():
            torch.onnx.export(
                model,
                kwargs=dict(example),
                f=path,
                input_names=list(example),
                output_names=[name for name in ONNX_OUTPUTS if name in outputs],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"a {type(model).__name__} cannot be exported: {error}") from error


def quantise_onnx(path: Path, quantised: Path) -> None:
    """Write a copy of an ONNX file with weights in int8; activations are quantised at each forward."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _without_others_warnings():
        quantize_dynamic(path, quantised, weight_type=QuantType.QInt8)


@contextmanager
def _without_others_warnings() -> Iterator[None]:
    """Without warnings of torch and onnxruntime, such as of packages that we do not need, or of their own code."""
    root, silent, of_torch = logging.getLogger(), logging.NullHandler(), logging.getLogger("torch.onnx")
    level = of_torch.level
    root.addHandler(silent)  # else onnxruntime's advice sets up the root logger, which then repeats what we log
    of_torch.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        of_torch.setLevel(level)
        root.removeHandler(silent)


def run_by_onnx(model: PreTrainedModel, path: Path, order: Sequence[int] | None = None) -> PreTrainedModel:
    """Have onnxruntime compute a model's forward from a file, on torch's number of threads, in place.

    The model keeps its class and its configuration, so that it is evaluated like any other. Its loss is 0.

    Args:
        model: the model.
        path: path of the file.
        order: the file's column for each of the model's classes. Default: the same order.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs, outputs = ([entry.name for entry in entries] for entries in (session.get_inputs(), session.get_outputs()))

    @functools.wraps(model.forward)
    def forward(**batch: Any) -> ModelOutput:
        values = session.run(outputs, {name: batch[name].numpy() for name in inputs})
        found = {name: torch.from_numpy(value) for name, value in zip(outputs, values, strict=True)}
        if order is not None:
            found["logits"] = found["logits"][..., list(order)]
        return ModelOutput(loss=torch.zeros(()), **found)

    model.forward = forward
    return model
