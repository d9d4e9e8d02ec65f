"""Which examples of the splits a run takes: what is held out of train, and how many of each."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import SEED
from hf_kd_lambda.data.sources import ROW
from hf_kd_lambda.data.splits import SPLITS

logger = logging.get_logger(__name__)


def select_examples(
    splits: Mapping[str, Dataset], args: DataArguments, seed: int, strata: Sequence[Hashable] | None
) -> DatasetDict:
    """Hold out examples of train where there is no validation split, then take as many as are asked for.

    Args:
        splits: whole ones.
        args: `validation_share`, `max_train_samples`, `max_eval_samples`.
        seed: draws the `max_train_samples`; what is held out is always the same.
        strata: of each row of train, the class of which a like share is held out; None for no classes.

    Raises:
        ValueError: no example can be held out.
    """
    chosen = {name: split.remove_columns({ROW} & set(split.column_names)) for name, split in splits.items()}
    if "validation" not in chosen:
        chosen |= _hold_out(chosen["train"], args, strata)
    for name, split in chosen.items():
        limit = args.max_train_samples if name == "train" else args.max_eval_samples
        if limit is not None:
            chosen[name] = (split.shuffle(seed) if name == "train" else split).take(limit)
    return DatasetDict({name: chosen[name] for name in SPLITS if name in chosen})


def _hold_out(train: Dataset, args: DataArguments, strata: Sequence[Hashable] | None) -> dict[str, Dataset]:
    held_out = held_out_rows([0] * len(train) if strata is None else strata, args.validation_share)
    source = f"dataset={args.dataset!r}" if args.dataset is not None else f"train_file={args.train_file!r}"
    if not held_out:
        raise ValueError(
            f"{source} has no validation split, and none can be held out: validation_share={args.validation_share} "
            f"of {len(train)} examples is none. Set validation_file or a larger validation_share."
        )
    kept = sorted(set(range(len(train))) - set(held_out))
    logger.warning(
        f"{source} has no validation split: {len(held_out)} of {len(train)} training examples are held out "
        f"(validation_share={args.validation_share}{'' if strata is None else ', the same of each class'})."
    )
    return {"train": train.select(kept), "validation": train.select(held_out)}


def held_out_rows(strata: Sequence[Hashable], share: float) -> list[int]:
    """Rows to hold out, always the same: of each stratum this share, to the nearest row, and never all.

    Args:
        strata: of each row.
        share: of the rows.
    """
    rows: dict[Hashable, list[int]] = {}
    for row in np.random.default_rng(SEED).permutation(len(strata)).tolist():
        rows.setdefault(strata[row], []).append(row)
    taken = {stratum: min(int(share * len(own)), len(own) - 1) for stratum, own in rows.items()}
    missing = round(share * len(strata)) - sum(taken.values())
    for stratum in sorted(rows, key=lambda stratum: -(share * len(rows[stratum]) % 1)):
        if missing > 0 and taken[stratum] < len(rows[stratum]) - 1:
            taken[stratum] += 1
            missing -= 1
    return sorted(row for stratum, own in rows.items() for row in own[: taken[stratum]])
