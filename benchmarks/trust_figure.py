"""What trust finds where labels and teacher are wrong: `python -m benchmarks.trust_figure OUTPUT.png`.

One run of the rule `trust` on SST-2 in the regime `both` of configs/compare_trust.yaml: 30 % of the labels are wrong,
and the teacher is wrong on another 30 %. The figure shows the trust in right and in wrong labels, and the
reliabilities over the steps. `python -m benchmarks.sst2_files` writes the files first.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure

from hf_kd_lambda.jobs.resuming import train_on
from hf_kd_lambda.reports.figure import KD_COLOR, TASK_COLOR, Line
from hf_kd_lambda.studies.comparison.plan import load_comparison
from hf_kd_lambda.studies.comparison.run_results import Cell
from hf_kd_lambda.studies.comparison.runs import TaskRuns
from hf_kd_lambda.trainer.label_quality import label_quality

CELL = Cell("sst2", "both", "trust", 0)
CONFIG = Path(__file__).parents[1] / "configs" / "compare_trust.yaml"
INFORMATIVE = 0.4
"""True share of informative labels: a guess between two classes is right in half of all cases, so 30 % wrong labels
are 60 % guesses. It is the same for the teacher."""


def plot(logs: list[dict[str, Any]], trust: np.ndarray, is_wrong: np.ndarray) -> Figure:
    """The figure.

    Args:
        logs: entries with `step`, `label_reliability` and `teacher_reliability`.
        trust: r_label after the run, `[examples]`.
        is_wrong: whether a label is wrong, `[examples]`.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    over_labels, over_steps = figure.subplots(1, 2)
    bins = np.linspace(0, 1, 26)
    over_labels.hist([trust[~is_wrong], trust[is_wrong]], bins=cast(Any, bins), label=["right labels", "wrong labels"])
    over_labels.set(
        xlabel="r_label: probability that the label is informative", ylabel="training examples", yscale="log"
    )
    steps = [entry["step"] for entry in logs]
    for line in (
        Line("label_reliability", "α of the labels", TASK_COLOR),
        Line("teacher_reliability", "β of the teacher", KD_COLOR),
    ):
        over_steps.plot(steps, [entry[line.key] for entry in logs], color=line.color, label=line.label)
    over_steps.axhline(INFORMATIVE, color="black", linestyle=":", label="true value of both")
    over_steps.set(xlabel="optimizer step", ylabel="reliability", ylim=(0, 1))
    for axes in (over_labels, over_steps):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Make the run, save the figure and print the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--teachers", help="output_dir of a comparison whose fine-tuned teacher is used")
    options = parser.parse_args()
    task = TaskRuns(load_comparison(CONFIG).in_folder(options.teachers), CELL.task)
    with tempfile.TemporaryDirectory() as folder:
        trainer = task.trainer(CELL, task.supervision(CELL), folder)
        train_on(trainer)
        quality = label_quality(trainer, cast(list[str], task.job.data.label_names))
    is_wrong = quality.labels != np.asarray(task.examples[0]["labels"])
    logs = [entry for entry in trainer.state.log_history if "label_reliability" in entry]
    plot(logs, quality.label_trust, is_wrong).savefig(options.output, dpi=150)
    print(
        f"wrong labels: {is_wrong.mean():.1%}; area under the ROC curve {roc_auc_score(is_wrong, quality.wrong):.3f}"
    )


if __name__ == "__main__":
    main()
