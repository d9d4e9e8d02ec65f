"""The command `export`: a student as ONNX files, in fp32 and in int8, for runtimes without PyTorch."""

import copy
import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoProcessor, PreTrainedModel, PreTrainedTokenizerBase

from hf_kd_lambda.data.arguments import DataArguments, EvaluatedData
from hf_kd_lambda.data.columns import accepted_inputs
from hf_kd_lambda.jobs.command_line import ScreenParser
from hf_kd_lambda.jobs.evaluate import DATA_GROUP, with_data
from hf_kd_lambda.jobs.evaluation import evaluate_model, evaluated_data
from hf_kd_lambda.models.labels import label_permutation, own_label_names
from hf_kd_lambda.models.loaded_forms import read_in_own_precision
from hf_kd_lambda.models.onnx_file import quantise_onnx, require_onnx, run_by_onnx, write_onnx
from hf_kd_lambda.models.padding import ensure_pad_token
from hf_kd_lambda.models.protocol import text_config
from hf_kd_lambda.reports.agreement import teacher_agreement
from hf_kd_lambda.reports.results import ModelReport, as_json, latency_ms, markdown_table, measure_model, results_table
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.utils.hardware import count_threads
from hf_kd_lambda.utils.paths import write_at_once
from hf_kd_lambda.utils.run_files import CARD, ONNX, ONNX_INT8, RESULTS

FILES = {"ONNX": ONNX, "ONNX int8": ONNX_INT8}
FORMS = ("fp32", "bf16", *FILES)
TOLERANCE = 1e-4  # of outputs, relative to the largest above 1: rounding in fp32
BATCH = 32  # examples of the larger batch that is timed
TRACED = ["one text", "and another one, which is longer"]
# Batches of other sizes and lengths than the one that is traced, and with padding.
CHECKED = [["short"], ["a text of some length, twice as long as any other here", "a b c", "x"]]
SECTION = "\n## Exported files\n"
NEXT_SECTION = "\n## Limits\n"  # of the card

DESCRIPTION = f"""\
Export a student to FOLDER/{ONNX} and, with weights in int8, to FOLDER/{ONNX_INT8}. Needs the [onnx] extra. The files
are kept only if onnxruntime computes the model's outputs from {ONNX}. Prints size and latency of both
files, and of PyTorch in fp32 and bf16; with data, which is given as for evaluate, also their scores. The table is
added to the model card and to {RESULTS}."""


def main(argv: Sequence[str]) -> None:
    """The command `export`.

    Args:
        argv: the command line.

    Raises:
        OSError: the model cannot be loaded.
        ValueError, ModuleNotFoundError: see `with_data`, `export_onnx` and `measure_forms`.
    """
    parser = ScreenParser(
        (EvaluatedData,),
        DATA_GROUP,
        "--help-all shows all arguments.",
        prog="hf-kd-lambda export",
        usage="%(prog)s FOLDER [DATA] [--setting value ...]",
        description=DESCRIPTION,
    )
    parser.add_argument("model", metavar="FOLDER", help="with a model and its tokenizer")
    values, data = with_data(parser, argv) if len(argv) > 1 else (parser.parse_args(argv), None)
    folder = Path(values.model)
    difference = export_onnx(folder)
    split, reports = measure_forms(folder, data)
    where = f"On the {split} split:\n" if split else ""
    print(f"{where}{results_table(reports)}")
    changed = record_exports(folder, split, reports)
    print(f"\nONNX: {folder / ONNX} (its outputs are the model's, up to {difference:.1e})")
    print(f"ONNX with weights in int8: {folder / ONNX_INT8}")
    print("".join(f"table added to {path}\n" for path in changed), end="")


def export_onnx(folder: Path) -> float:
    """Write a model's ONNX files, and compare the outputs of the one in fp32 with the model's.

    Args:
        folder: with a model of any task and its tokenizer or image processor.

    Returns:
        The largest difference of an output.

    Raises:
        OSError: the model cannot be loaded.
        ModuleNotFoundError: the [onnx] extra is not installed.
        ValueError: the model cannot be exported, or the outputs differ by more than rounding. Earlier files stay.
    """
    require_onnx()
    model, processor = _load(folder)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        written = {name: Path(temporary) / name for name in (ONNX, ONNX_INT8)}
        write_onnx(model, _example(model, processor, TRACED), written[ONNX])
        if others := [path.name for path in Path(temporary).iterdir() if path.name != ONNX]:
            raise ValueError(
                f"a model of this size does not fit into one ONNX file (torch also wrote {', '.join(others)}), and "
                "several are not supported."
            )
        expected = [_outputs(model, _example(model, processor, texts)) for texts in CHECKED]
        by_file = run_by_onnx(model, written[ONNX])
        found = [_outputs(by_file, _example(model, processor, texts)) for texts in CHECKED]
        pairs = [(a[name], b[name]) for a, b in zip(found, expected, strict=True) for name in a]
        difference = max((a - b).abs().max().item() for a, b in pairs)
        scale = max(1.0, *(b.abs().max().item() for _, b in pairs))
        if not difference <= TOLERANCE * scale:
            raise ValueError(
                f"the file's outputs differ from the model's by {difference:.2g}: a {type(model).__name__} cannot be "
                "exported."
            )
        quantise_onnx(written[ONNX], written[ONNX_INT8])
        for name, path in written.items():
            os.replace(path, folder / name)
    return difference


def measure_forms(folder: Path, data_args: DataArguments | None) -> tuple[str | None, list[ModelReport]]:
    """Score, size and latency of a model in PyTorch, in fp32 and bf16, and of its two ONNX files.

    Args:
        folder: with the model and its files.
        data_args: which examples; None to measure without scores.

    Returns:
        The split that was evaluated, and a report for each form.

    Raises:
        ValueError: the data do not fit the settings or the model.
    """
    if data_args is None:
        model, processor = _load(folder)
        single, batch = (_example(model, processor, TRACED[1:] * size) for size in (1, BATCH))
        models = {name: _as_form(name, copy.deepcopy(model), folder) for name in FORMS}
        reports = [measure_model(name, form, {}, single) for name, form in models.items()]
        return None, [_with_file(r, folder, latency_ms(models[r.name], batch)) for r in reports]
    with tempfile.TemporaryDirectory() as output:
        args = DistillationConfig(output, precision="fp32", use_cpu=True, report_to="none")
        task, data, split = evaluated_data(data_args, None, str(folder), args.seed)
        processor = task.load_processor(str(folder))
        examples = task.encode(data, data_args, processor, None)[split]
        loaded = task.load_model(str(folder), data, require_head=True)
        order = _columns_of_files(folder, loaded)
        reports, predictions = [], []
        for name in FORMS:
            model = _as_form(name, copy.deepcopy(loaded), folder, order)
            report, found = evaluate_model(name, model, examples, args, task, data, processor)
            predictions.append(found)
            report.metrics["agreement_with_fp32"] = teacher_agreement(found, predictions[0])
            rows = [examples[index % len(examples)] for index in range(BATCH)]
            inputs = accepted_inputs(model, task.collator(processor, None)(rows))
            reports.append(_with_file(report, folder, latency_ms(model, inputs)))
    return split, reports


def _load(folder: Path) -> tuple[PreTrainedModel, Any]:
    """A model in fp32 of the class that its configuration names, and what makes its inputs."""
    config = AutoConfig.from_pretrained(folder)
    name = (config.architectures or [""])[0]
    if not hasattr(transformers, name):
        raise ValueError(f"{folder}: its config.json names no model class of Transformers, but {name!r}.")
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    text_config(model).use_cache = False  # keys and values are for generation
    return model, AutoProcessor.from_pretrained(folder)


def _columns_of_files(folder: Path, model: PreTrainedModel) -> list[int] | None:
    """The files' column for each class of a model in the data's order; None if the order is the same."""
    return label_permutation(_load(folder)[0], own_label_names(model), model.config.problem_type)


def _as_form(name: str, model: PreTrainedModel, folder: Path, order: Sequence[int] | None = None) -> PreTrainedModel:
    """The model in one of `FORMS`; for `order` see `run_by_onnx`."""
    if name in FILES:
        return run_by_onnx(model, folder / FILES[name], order)
    if name == "bf16":
        read_in_own_precision(cast(Any, model).to(torch.bfloat16))
    return model


def _with_file(report: ModelReport, folder: Path, batch_latency_ms: float) -> ModelReport:
    """A report with the size of the file that was measured, and the latency of the larger batch."""
    megabytes = (folder / FILES[report.name]).stat().st_size / 1e6 if report.name in FILES else report.megabytes
    return dataclasses.replace(report, megabytes=megabytes, batch_latency_ms=batch_latency_ms)


def _example(model: PreTrainedModel, processor: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Inputs of a model: the texts, or as many random images."""
    if isinstance(processor, PreTrainedTokenizerBase):
        ensure_pad_token(processor)
        batch = processor(list(texts), padding=True, return_tensors="pt")
    else:
        channels = getattr(model.config, "num_channels", 3)
        pixels = np.random.default_rng(0).integers(0, 256, (len(texts), 64, 64, channels))
        images = [Image.fromarray(values.squeeze()) for values in pixels.astype(np.uint8)]
        batch = processor(images=images, return_tensors="pt")
    return accepted_inputs(model, batch)


@torch.inference_mode()
def _outputs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in model(**batch).items() if name.endswith("logits")}


def record_exports(folder: Path, split: str | None, reports: Sequence[ModelReport]) -> list[Path]:
    """Add the table to a run's results and model card, where there are such files; these are returned."""
    results, card = folder / RESULTS, folder / CARD
    if results.exists():
        try:
            written = dict(json.loads(results.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{results} is damaged ({error}): remove it to export without it.") from error
        written["exports"] = {"split": split, "models": [dataclasses.asdict(report) for report in reports]}
        write_at_once(results, as_json(written))
    if card.exists():
        before, mark, after = card.read_text(encoding="utf-8").partition(NEXT_SECTION)
        before = before.split(SECTION)[0].rstrip("\n")
        named = [
            dataclasses.replace(report, name=f"{report.name}: {FILES[report.name]}")
            if report.name in FILES
            else report
            for report in reports
        ]
        where = f"On the {split} split, on {count_threads(reports[0].threads or 1)} of the CPU:\n\n" if split else ""
        write_at_once(card, f"{before}\n{SECTION}\n{where}{markdown_table(named)}\n{mark}{after}")
    return [path for path in (results, card) if path.exists()]
