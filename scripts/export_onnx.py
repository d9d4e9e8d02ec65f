"""Export a student to ONNX: `python scripts/export_onnx.py FOLDER` writes FOLDER/model.onnx. Needs the [onnx] extra.

The file is run by onnxruntime on batches of several sizes, and kept only if it says what the model does.
"""

import argparse
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_kd_lambda.jobs.onnx_export import export_onnx


def main() -> None:
    """Export; end with a message instead of a traceback where that fails."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with a model and its tokenizer")
    folder = parser.parse_args().folder
    path = folder / "model.onnx"
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        if loaded["missing_keys"]:
            raise ValueError(f"{folder} holds no text classifier, and others cannot be exported.")
        difference = export_onnx(model, AutoTokenizer.from_pretrained(folder), path)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(f"{path}: its logits are the model's but for {difference:.1e}")


if __name__ == "__main__":
    main()
