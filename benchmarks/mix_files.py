"""Labelled and unlabelled texts in two mixes: `python -m benchmarks.mix_files [--output_dir runs/mix]`.

A tenth of the training texts keeps its label. In proportion to their numbers, one of ten texts in a batch is labelled
then. If the file has every labelled text 9 times, it is one of two.

First make the files of SST-2 with benchmarks/sst2_files.py. Tweets are of the [quickstart] extra.
"""

import argparse
import csv
import random
from pathlib import Path

from hf_kd_lambda.data.bundled import load_tweets

TIMES = (1, 9)
Rows = list[tuple[str, str]]


def main() -> None:
    """Write the files of both tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sst2", type=Path, default=Path("runs/sst2"), help="folder of SST-2's files")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/mix"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with (args.sst2 / "train.csv").open(newline="", encoding="utf-8") as file:
        write_mixes(args.output_dir, "sst2", [(row["text"], row["label"]) for row in csv.DictReader(file)])
    tweets = load_tweets()
    names = tweets["train"].features["label"].names
    rows = {split: [(row["text"], names[row["label"]]) for row in data] for split, data in tweets.items()}
    write_mixes(args.output_dir, "tweets", rows["train"])
    for split in ("validation", "test"):
        write(args.output_dir / f"tweets_{split}.csv", rows[split])


def write_mixes(folder: Path, task: str, rows: Rows) -> None:
    """The unlabelled texts of a task, and its labelled ones, as often as `TIMES` says."""
    random.Random(0).shuffle(rows)
    labelled = rows[: len(rows) // 10]
    write(folder / f"{task}_unlabelled.csv", rows[len(labelled) :])
    for times in TIMES:
        write(folder / f"{task}_labelled_{times}.csv", labelled * times)


def write(path: Path, rows: Rows) -> None:
    """A file with the columns text and label; `unlabelled_file` ignores the label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
