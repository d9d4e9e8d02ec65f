"""SST-2 with a large test set: `python -m benchmarks.sst2_files [--glue DIR] [--output_dir runs/sst2]`.

GLUE's validation split has 872 sentences, with which an accuracy has a standard error of 1.4 points. Its training
split has 67,000. We use 6,000 for training, 1,000 for validation and 4,000 for the test, with a standard error of 0.6
points. Many sentences are phrases of others: no validation or test sentence contains a training sentence or is a part
of one.
"""

import argparse
import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from datasets import load_dataset

TRAIN, VALIDATION, TEST = 6000, 1000, 4000
NAMES = ("negative", "positive")


def unrelated(candidates: Iterable[tuple[str, int]], used: Sequence[str], count: int) -> list[tuple[str, int]]:
    """The first candidates that contain no used sentence and are contained in none."""
    everything = "\n".join(used)
    found: list[tuple[str, int]] = []
    for sentence, label in candidates:
        if sentence not in everything and not any(other in sentence for other in used):
            found.append((sentence, label))
            if len(found) == count:
                return found
    raise ValueError(f"only {len(found)} of {count} sentences are unrelated to the training sentences.")


def main() -> None:
    """Write train.csv, validation.csv and test.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--glue", default="nyu-mll/glue", help="folder that replaces nyu-mll/glue of the Hub")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/sst2"))
    args = parser.parse_args()
    rows = load_dataset(args.glue, "sst2")["train"]
    labels = {text.strip(): label for text, label in zip(rows["sentence"][:], rows["label"][:], strict=True)}
    order = sorted(sentence for sentence in labels if len(sentence.split()) > 2)
    random.Random(0).shuffle(order)
    pairs = [(sentence, labels[sentence]) for sentence in order]
    train = pairs[:TRAIN]
    held_out = unrelated(pairs[TRAIN:], [sentence for sentence, _ in train], VALIDATION + TEST)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("validation", held_out[:VALIDATION]), ("test", held_out[VALIDATION:])):
        with (args.output_dir / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((sentence, NAMES[label]) for sentence, label in part)


if __name__ == "__main__":
    main()
