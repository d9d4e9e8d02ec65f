"""Labelled images from the Hub, a folder or a package, checked and with uniform columns."""

import io

import PIL.Image
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Image, load_dataset
from datasets.table import embed_table_storage
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import BUNDLED_IMAGES, SEED
from hf_kd_lambda.data.loading import SPLITS, TaskData, encode_labels, label_names_of

logger = logging.get_logger(__name__)

HELD_OUT = 0.1  # of the training images, where there are none to validate on


def load_image_data(args: DataArguments, seed: int) -> TaskData:
    """Load and check images and their labels.

    A tenth of the training images, always the same, is held out where there is no validation split.

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Returns:
        Examples with the columns image and label.

    Raises:
        ValueError: a split or column is missing, an image or label is missing, an image cannot be read, or a label is
            out of range. The message names the split, the row (counted from 0) and the value.
        ModuleNotFoundError: a package that carries the images is not installed.
    """
    splits = {name: _uniform_columns(split, name, args) for name, split in _load_splits(args).items()}
    names = label_names_of(splits["train"], None)
    if names is None:
        raise ValueError(f"label_column={args.label_column!r} holds floats: images are classified, give classes.")
    if "test" in splits and set(splits["test"]["label"][:]) == {-1}:
        del splits["test"]  # its labels are kept secret
    splits = {name: encode_labels(split, name, names) for name, split in splits.items()}
    if "validation" not in splits:
        splits |= _hold_out(splits["train"], args)
    if args.max_train_samples is not None:
        splits["train"] = splits["train"].shuffle(seed).take(args.max_train_samples)
    if args.max_eval_samples is not None:
        splits |= {name: splits[name].take(args.max_eval_samples) for name in splits if name != "train"}
    return TaskData(DatasetDict(splits), names, None)


def _load_splits(args: DataArguments) -> dict[str, Dataset]:
    for name in ("train_file", "validation_file", "test_file", "task"):
        if (value := getattr(args, name)) is not None:
            raise ValueError(f"{name}={value!r} is for texts: leave it out, and set dataset to a folder of images.")
    load = BUNDLED_IMAGES.get(str(args.dataset))
    splits = load() if load is not None else load_dataset(args.dataset, args.dataset_config)
    if "train" not in splits:
        raise ValueError(f"dataset={args.dataset!r} has no train split, only {', '.join(splits)}.")
    return {name: splits[name] for name in SPLITS if name in splits}


def _uniform_columns(split: Dataset, name: str, args: DataArguments) -> Dataset:
    """Images, with their bytes, and labels, after a check that each row has both."""
    columns = {"image_column": args.image_column, "label_column": args.label_column}
    for setting, column in columns.items():
        if column not in split.column_names:
            found = ", ".join(split.column_names)
            raise ValueError(f"the {name} split has no column {column!r}, only {found}: set {setting}.")
    column, feature = args.image_column, split.features[args.image_column]
    if not isinstance(feature, Image):
        raise ValueError(f"column {column!r} of the {name} split holds {feature}, no images: set image_column.")
    if len(split) == 0:
        raise ValueError(f"the {name} split is empty.")
    split = split.select_columns(list(columns.values()))
    split = split.rename_columns({args.image_column: "image", args.label_column: "label"})
    stored = split.with_format("arrow")
    for column, kind in (("image", "image"), ("label", "label")):
        row = pc.index(pc.is_null(stored[:][column]), True).as_py()
        if row >= 0:
            raise ValueError(f"{name} split, row {row}: there is no {kind}.")
    if stored[:1]["image"][0]["bytes"].as_py() is None:
        # Files are taken in: their paths would tell neither what is in them nor whether that has changed.
        split = stored.map(embed_table_storage, batched=True, desc="Reading images").with_format(None)
    _check_readable(split, name)
    return split


def _check_readable(split: Dataset, name: str) -> None:
    """Refuse files that hold no image, or one of more than 8 bits a channel, which Pillow would clip at 255."""
    for row, image in enumerate(split.with_format("arrow")[:]["image"]):
        try:
            mode = PIL.Image.open(io.BytesIO(image["bytes"].as_py())).mode  # reads no more than the head
        except PIL.UnidentifiedImageError:
            raise ValueError(f"{name} split, row {row}: {image['path']} is no image that Pillow can read.") from None
        if mode.startswith(("I", "F")):
            raise ValueError(
                f"{name} split, row {row}: the image has the mode {mode}, of more than 8 bits a pixel, which image "
                "processors do not read: scale the images to 8 bits first."
            )


def _hold_out(train: Dataset, args: DataArguments) -> dict[str, Dataset]:
    try:
        parts = train.train_test_split(HELD_OUT, stratify_by_column="label", seed=SEED)
    except ValueError as error:
        raise ValueError(
            f"dataset={args.dataset!r} has no validation split, and none can be held out ({error}): add one."
        ) from None
    logger.warning(f"dataset={args.dataset!r} has no validation split: {HELD_OUT:.0%} of its train split is held out.")
    return {"train": parts["train"], "validation": parts["test"]}
