"""BBC news as files: `python -m benchmarks.bbc_files [--output_dir runs/bbc]`, with the extra [label-errors].

There are 2,127 different articles: 1,000 for training, 1,000 for the test, and the others for validation. The score of
the test has a standard error of about 0.7 points.
"""

import argparse
import csv
from pathlib import Path

from benchmarks.label_errors import bbc_news

TRAIN, TEST = 1000, 1000


def main() -> None:
    """Write train.csv, test.csv and validation.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bbc"))
    folder = parser.parse_args().output_dir
    rows, names = bbc_news("")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "train": range(TRAIN),
        "test": range(TRAIN, TRAIN + TEST),
        "validation": range(TRAIN + TEST, len(rows)),
    }
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows((row["text"], names[row["label"]]) for row in rows.select(part))


if __name__ == "__main__":
    main()
