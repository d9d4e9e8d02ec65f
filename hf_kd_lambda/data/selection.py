"""Which examples of the splits a run takes: what is held out of train, and how many of each."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import SEED
from hf_kd_lambda.data.columns import LABELS
from hf_kd_lambda.data.sources import POSITION, ROW
from hf_kd_lambda.data.splits import SPLITS, TRANSFER_SET
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.labels import UNLABELLED

logger = logging.get_logger(__name__)


class Selection(NamedTuple):
    """The examples of a run.

    Attributes:
        splits: in the order of SPLITS.
        train_rows: row of each training example in its file or split, counted from 0; rows of a transfer set follow.
        held_out: whether validation was held out of train.
    """

    splits: DatasetDict
    train_rows: list[int]
    held_out: bool


def select_examples(
    splits: Mapping[str, Dataset], args: DataArguments, seed: int, strata: Sequence[Hashable] | None
) -> Selection:
    """Hold out examples of train where there is no validation split, then take as many as are asked for.

    Examples without a label are never held out. Those of the transfer set come last in train.

    Args:
        splits: whole ones; labels are None where there are none.
        args: `validation_share`, `max_train_samples`, `max_eval_samples`.
        seed: draws the `max_train_samples`; what is held out, or drawn to evaluate on, is always the same.
        strata: the class of each row of train, for the same hold-out share of each class; None for no classes.

    Raises:
        ValueError: no example can be held out.
    """
    chosen = {name: _numbered(split) for name, split in splits.items() if name != TRANSFER_SET}
    transfer = None
    if TRANSFER_SET in splits:
        positions = chosen["train"][POSITION][:] if "train" in chosen else []
        transfer = _numbered(splits[TRANSFER_SET], max(positions, default=-1) + 1)
    held_out = "validation" not in chosen and ("train" in chosen or args.needs_train)
    if held_out:
        if "train" not in chosen:
            raise ValueError(
                f"{_source(args)} has neither a train nor a validation split: set validation_file, or a dataset with "
                "a validation split."
            )
        chosen |= _hold_out(chosen["train"], args, strata)
    elif args.needs_train and args.validation_share != DataArguments.validation_share and not args.validation_file:
        logger.warning(
            f"validation_share={args.validation_share} has no effect: {_source(args)} has a validation split."
        )
    for name, split in chosen.items():
        limit = args.max_train_samples if name == "train" else args.max_eval_samples
        if limit is not None:
            drawn = split.shuffle(seed) if name == "train" else _shuffled(split, limit)
            chosen[name] = drawn.select(range(min(limit, len(split))))
    if transfer is not None:
        features = next(iter(chosen.values())).features
        transfer = transfer.add_column("label", [None] * len(transfer), feature=features["label"]).cast(features)
        chosen["train"] = concatenate_datasets([*([chosen["train"]] if "train" in chosen else []), transfer])
    train_rows = chosen["train"][POSITION][:] if "train" in chosen else []
    return Selection(
        DatasetDict({name: chosen[name].remove_columns(POSITION) for name in SPLITS if name in chosen}),
        train_rows,
        held_out,
    )


def _shuffled(split: Dataset, limit: int) -> Dataset:
    """A random order, always the same, if not all are taken: many files are sorted by class."""
    return split.shuffle(SEED) if limit < len(split) else split


def _numbered(rows: Dataset, first: int = 0) -> Dataset:
    """The rows with their positions, plus `first`, and without ROW."""
    positions = np.asarray(rows[POSITION][:]) if POSITION in rows.column_names else np.arange(len(rows))
    without = rows.remove_columns({ROW, POSITION} & set(rows.column_names))
    return without.add_column(POSITION, positions + first)


def strata_of_lists(rows: Sequence[Sequence[float] | None]) -> list[int | None]:
    """For each row the rarest of its labels, by which rows are held out: those that are at least half.

    Args:
        rows: 1, 0 or -100 for each label, or the share of each class; None for no label.
    """
    present = [None if row is None else [i for i, value in enumerate(row) if value >= 0.5] for row in rows]
    return rarest_labels(present)


def rarest_labels(rows: Sequence[Sequence[int] | None]) -> list[int | None]:
    """For each row the one of its labels that is rarest over all, -1 for an empty one; None for None.

    Args:
        rows: lists of labels.
    """
    counts = Counter(label for labels in rows for label in labels or ())
    return [None if labels is None else min(labels, key=counts.__getitem__, default=-1) for labels in rows]


def count_unlabelled(split: Dataset) -> int:
    """Number of examples whose label is None."""
    return split["label"][:].count(None) if "label" in split.column_names else 0


def labelled(examples: Dataset) -> Dataset:
    """The encoded examples that have a label, or of tokens one at least."""
    columns = [name for name in LABELS if name in examples.column_names]
    labels = zip(*(examples.with_format(None)[name][:] for name in columns), strict=True)
    rows = [row for row, label in enumerate(labels) if _has_label([*label])]
    return examples if len(rows) == len(examples) else examples.select(rows)


def _has_label(label: Any) -> bool:
    if isinstance(label, list):
        return any(map(_has_label, label))
    return label not in ((IGNORED,) if isinstance(label, float) else (IGNORED, UNLABELLED)) and label == label


def _source(args: DataArguments) -> str:
    return f"dataset={args.dataset!r}" if args.dataset is not None else f"train_file={args.train_file!r}"


def _hold_out(train: Dataset, args: DataArguments, strata: Sequence[Hashable] | None) -> dict[str, Dataset]:
    labels = train["label"][:] if "label" in train.column_names else [0] * len(train)
    one_stratum = [None if label is None else 0 for label in labels]
    held_out = _held_out_texts(train, one_stratum if strata is None else strata, args.validation_share)
    source, count = _source(args), len(train) - count_unlabelled(train)
    if not held_out:
        raise ValueError(
            f"{source} has no validation split, and none can be held out: validation_share={args.validation_share} "
            f"of {count} examples is none. Set validation_file or a larger validation_share."
        )
    kept = sorted(set(range(len(train))) - set(held_out))
    logger.warning(
        f"{source} has no validation split: {len(held_out)} of {count} training examples are held out "
        f"(validation_share={args.validation_share}{'' if strata is None else ', the same of each class'})."
    )
    return {"train": train.select(kept), "validation": train.select(held_out)}


def _held_out_texts(train: Dataset, strata: Sequence[Hashable], share: float) -> list[int]:
    """`held_out_rows`, with all rows of a text: in train, it would make scores too high.

    A text that also has no label stays in train, and so does every text where none can be held out whole.
    """
    texts = texts_of(train) or [*range(len(train))]
    first = {text: -1 for text, stratum in zip(texts, strata, strict=True) if stratum is None}
    once = [
        stratum if stratum is not None and first.setdefault(texts[row], row) == row else None
        for row, stratum in enumerate(strata)
    ]
    drawn = {texts[row] for row in held_out_rows(once, share)}
    return [row for row, text in enumerate(texts) if text in drawn] or held_out_rows(strata, share)


def texts_of(split: Dataset) -> list[Any]:
    """The text, or the pair or list of texts, of each example; empty if there are no such columns."""
    columns = [split[column][:] for column in ("text", "text_pair", "words") if column in split.column_names]
    return [
        tuple(tuple(part) if isinstance(part, list) else part for part in row) for row in zip(*columns, strict=True)
    ]


def held_out_rows(strata: Sequence[Hashable], share: float) -> list[int]:
    """Rows to hold out, always the same: this share of each stratum, to the nearest row, and never all.

    Args:
        strata: stratum of each row; None for a row that stays in train.
        share: share of the rows.
    """
    rows: dict[Hashable, list[int]] = {}
    for row in np.random.default_rng(SEED).permutation(len(strata)).tolist():
        if strata[row] is not None:
            rows.setdefault(strata[row], []).append(row)
    taken = {stratum: min(int(share * len(own)), len(own) - 1) for stratum, own in rows.items()}
    missing = round(share * sum(map(len, rows.values()))) - sum(taken.values())
    for stratum in sorted(rows, key=lambda stratum: -(share * len(rows[stratum]) % 1)):
        if missing > 0 and taken[stratum] < len(rows[stratum]) - 1:
            taken[stratum] += 1
            missing -= 1
    return sorted(row for stratum, own in rows.items() for row in own[: taken[stratum]])
