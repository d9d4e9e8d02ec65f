"""Size and latency of a teacher of BERT-base's size and its students: `python -m benchmarks.base.forms TEACHER`.

TEACHER is the folder of the fine-tuned teacher. Weights do not matter for these figures, so the students are those
before training. For each model: parameters, size, and the latency of one short text and of 32 of them in PyTorch
(fp32, bf16) and onnxruntime (fp32, int8). And the CPU seconds of a training step of the student and of the teacher's
forward on the same number of sentences, which is what the cache saves.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from hf_kd_lambda import student_from_layers
from hf_kd_lambda.data.bundled import encoder_path
from hf_kd_lambda.jobs.onnx_export import export_onnx, measure_forms
from hf_kd_lambda.utils.hardware import hardware

LAYERS = {"6": (0, 2, 4, 7, 9, 11), "3": (0, 5, 11)}
FILE = Path(__file__).parent / "forms.json"
SENTENCES, TOKENS, STEPS = 32, 16, 15


def models(teacher_folder: Path) -> dict[str, tuple[PreTrainedModel, Any]]:
    """Teacher and students, each with its tokenizer, by the names of configs/compare_base.yaml."""
    teacher, tokenizer = _load(teacher_folder)
    students = {name: (student_from_layers(teacher, layers), tokenizer) for name, layers in LAYERS.items()}
    return {"teacher": (teacher, tokenizer), **students, "minilm": _load(encoder_path(), num_labels=2)}


def _load(folder: Path, **settings: Any) -> tuple[PreTrainedModel, Any]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, **settings)
    return model, AutoTokenizer.from_pretrained(folder)


def forms(model: PreTrainedModel, tokenizer: Any) -> dict[str, dict[str, float]]:
    """Parameters, MB and latencies of the exported forms of a model, by form."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        export_onnx(folder)
        _, reports = measure_forms(folder, None)
    shown = ("parameters", "megabytes", "latency_ms", "batch_latency_ms")
    return {report.name: {key: dataclasses.asdict(report)[key] for key in shown} for report in reports}


def step_seconds(model: PreTrainedModel, trains: bool) -> float:
    """CPU seconds of a training step, or of a forward, in bf16 on 32 random sentences; the fastest of several."""
    ids = torch.randint(5, 20_000, (SENTENCES, TOKENS))
    labels = torch.zeros(SENTENCES, dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(trains):
            loss = model(input_ids=ids, labels=labels).loss
        if trains:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return min(_cpu_seconds(step) for _ in range(STEPS))


def _cpu_seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def main() -> None:
    """Measure all models and write forms.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="folder of the fine-tuned teacher")
    parser.add_argument("--output", type=Path, default=FILE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[str, Any] = {}
    for name, (model, tokenizer) in models(args.teacher).items():
        trains = name != "teacher"
        seconds = step_seconds(model.train(trains), trains)
        measured[name] = {"step_cpu_seconds": seconds, "forms": forms(model.eval(), tokenizer)}
        print(name, json.dumps(measured[name]), flush=True)
    record = {"hardware": hardware(use_cpu=True), "models": measured}
    args.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
