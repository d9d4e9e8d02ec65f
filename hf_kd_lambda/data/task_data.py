"""The examples of a task, once loaded and checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import DatasetDict


@dataclass(frozen=True)
class TaskData:
    """Labelled examples of one task.

    Args:
        splits: train, validation, perhaps test, for MNLI also validation_mismatched; to evaluate a model, those that
            there are. Columns: text, perhaps text_pair, and label (a class, or a float for a regression; see
            problem_type; None for no label).
        label_names: names of the classes in the order of the labels; None for a regression.
        glue_task: name of the GLUE task; None for own data.
        problem_type: `multi_label_classification`, where a label is 1, 0 or -100 for each name; `soft_labels`, where
            it is the share of each class; None for others.
        train_rows: row of each training example in its file or split, see `Selection`; for those with one label.
        held_out: whether validation was held out of train.
    """

    splits: DatasetDict
    label_names: list[str] | None
    glue_task: str | None
    problem_type: str | None = None
    train_rows: Sequence[int] = ()
    held_out: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether the label is a number to be predicted."""
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def has_pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return "text_pair" in self.columns

    @property
    def columns(self) -> list[str]:
        """Columns of the examples, the same in all splits."""
        return next(iter(self.splits.values())).column_names

    @property
    def report_split(self) -> str:
        """Split whose score is reported: test where its labels are known, else validation; or the only one."""
        return next((name for name in ("test", "validation") if name in self.splits), next(iter(self.splits)))
