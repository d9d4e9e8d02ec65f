"""Time one contender on the task: `python -m benchmarks.contenders NAME --teacher DIR --json OUT`.

The time is measured from the first line of the contender's own code to the saved student, without loading libraries,
data and models, and without the student's evaluation.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoModelForSequenceClassification, set_seed

from benchmarks.contenders.task import Parts, Task, accuracy, prepare

Train = Callable[[Task, Parts, Path], int]


class Contender(NamedTuple):
    """The module, function and distribution of a contender."""

    module: str
    function: str
    distribution: str


CONTENDERS = {
    "plain": Contender("plain", "train", "transformers"),
    "ours": Contender("ours", "train", "hf-kd-lambda"),
    "textbrewer": Contender("textbrewer_kd", "train", "textbrewer"),
    "textbrewer-padded": Contender("textbrewer_kd", "train_padded", "textbrewer"),
    "torchdistill": Contender("torchdistill_kd", "train", "torchdistill"),
}
ON_TRAINER = ("plain", "ours")
DEFAULTS = {field.name: field.default for field in fields(Task)}


def run(name: str, task: Task) -> dict[str, Any]:
    """Set up, train with timing, and evaluate the saved student.

    Returns:
        The content of the JSON file. Tokens are counted over all epochs, without padding.
    """
    contender = CONTENDERS[name]
    train: Train = getattr(import_module(f"benchmarks.contenders.{contender.module}"), contender.function)
    set_seed(task.seed)
    parts = prepare(task)
    set_seed(task.seed)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        steps = train(task, parts, Path(folder))
        seconds = time.perf_counter() - start
        student = AutoModelForSequenceClassification.from_pretrained(folder)
    distributions = ["torch", "transformers", "accelerate", "datasets", contender.distribution]
    return {
        "name": name,
        "precision": task.precision,
        "grouped": task.grouped,
        "seed": task.seed,
        "examples": len(parts.train),
        "epochs": task.epochs,
        "seconds": seconds,
        "accuracy": accuracy(student, parts, task.batch),
        "steps": steps,
        "real_tokens": task.epochs * parts.real_tokens,
        "parameters": {
            "non_embedding": student.num_parameters(exclude_embeddings=True),
            "all": student.num_parameters(),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in distributions}},
    }


def main() -> None:
    """Parse the arguments, run, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--teacher", required=True, help="folder of the fine-tuned teacher and its tokenizer")
    parser.add_argument("--data", default=DEFAULTS["data"], help="Hub id or folder of GLUE")
    parser.add_argument("--examples", type=int, default=DEFAULTS["examples"], help="sentences to train on")
    parser.add_argument("--epochs", type=int, default=DEFAULTS["epochs"])
    parser.add_argument("--seed", type=int, default=DEFAULTS["seed"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default=DEFAULTS["precision"])
    parser.add_argument("--grouped", action="store_true", help="length-grouped batches; always on for `ours`")
    parser.add_argument("--json", type=Path, required=True, help="file to write the figures to")
    args = vars(parser.parse_args())
    name, path = args.pop("name"), args.pop("json")
    if name not in ON_TRAINER and (args["grouped"] or args["precision"] != "fp32"):
        parser.error(f"{name} supports neither bf16 nor length-grouped batches: remove --precision and --grouped.")
    args["grouped"] |= name == "ours"
    figures = json.dumps(run(name, Task(**args)), indent=2)
    path.write_text(figures + "\n")
    print(figures)


if __name__ == "__main__":
    main()
