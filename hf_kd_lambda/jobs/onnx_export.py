"""A student as ONNX, for runtimes without PyTorch."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_kd_lambda.data.columns import forward_parameters

TOLERANCE = 1e-4  # of logits
TRACED = ["one text", "and another one, which is longer"]
# Batches of other sizes and lengths than the one that is traced, and with padding.
CHECKED = [["short"], ["a text of some length, twice as long as any other here", "a b c", "x"]]

DESCRIPTION = """\
Export a student to FOLDER/model.onnx, with the [onnx] extra. onnxruntime runs the file on batches of several sizes;
it is kept only if its logits are the model's."""


def main(argv: Sequence[str]) -> None:
    """The command `export`.

    Args:
        argv: the command line.

    Raises:
        OSError: the model cannot be loaded.
        ValueError, ModuleNotFoundError: see `export_onnx`.
    """
    parser = argparse.ArgumentParser(prog="hf-kd-lambda export", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with a model and its tokenizer")
    folder = parser.parse_args(argv).folder
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    if loaded["missing_keys"]:
        raise ValueError(f"{folder} holds no text classifier, and others cannot be exported.")
    path = folder / "model.onnx"
    difference = export_onnx(model, AutoTokenizer.from_pretrained(folder), path)
    print(f"{path}: its logits differ from the model's by at most {difference:.1e}")


def export_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> float:
    """Write a classifier to a file whose inputs, `[batch, sequence]`, may have any size, and compare what it says.

    Args:
        model: in fp32.
        tokenizer: the model's.
        path: of the file.

    Returns:
        The largest difference between a logit of the file, run by onnxruntime, and one of the model.

    Raises:
        ModuleNotFoundError: the [onnx] extra is not installed.
        ValueError: the model cannot be exported, or they differ by more than rounding. A file that was there stays.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  what torch.onnx exports with
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'hf-kd-lambda[onnx]'") from error
    model.eval()
    accepted = forward_parameters(model)

    def inputs(texts: list[str]) -> dict[str, torch.Tensor]:
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        return {name: value for name, value in tokens.items() if name in accepted}

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / path.name
        _write(model, inputs(TRACED), written)
        session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
        differences = []
        for texts in CHECKED:
            batch = inputs(texts)
            (found,) = session.run(["logits"], {name: value.numpy() for name, value in batch.items()})
            with torch.inference_mode():
                differences.append((torch.from_numpy(found) - model(**batch).logits).abs().max().item())
        if not max(differences) <= TOLERANCE:
            raise ValueError(f"the file's logits were wrong by {max(differences):.2g}: this model cannot be exported.")
        os.replace(written, path)
    return max(differences)


def _write(model: PreTrainedModel, traced: dict[str, torch.Tensor], path: Path) -> None:
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        torch.onnx.export(
            model,
            kwargs=traced,
            f=path,
            input_names=list(traced),
            output_names=["logits"],
            dynamic_shapes=dict.fromkeys(traced, free),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"this model cannot be exported: {error}") from error
