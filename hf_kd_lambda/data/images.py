"""Labelled images from the Hub, a folder or a package, checked and with uniform columns."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Image
from datasets.table import embed_table_storage

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import BUNDLED_IMAGES
from hf_kd_lambda.data.classes import encode_labels, find_classes, known_labels
from hf_kd_lambda.data.readers import RowError
from hf_kd_lambda.data.selection import select_examples
from hf_kd_lambda.data.sources import Column, Source
from hf_kd_lambda.data.splits import load_splits
from hf_kd_lambda.data.task_data import TaskData

_AT_ONCE = 64  # images that are decoded together


def load_image_data(args: DataArguments, seed: int) -> TaskData:
    """Load and check images and their labels. Every image is decoded once.

    Args:
        args: where the examples are, and which columns and how many of them to take.
        seed: draws the `max_train_samples` examples.

    Returns:
        Examples with the columns image and label.

    Raises:
        ValueError: a split or column is missing, an image or label is missing, an image cannot be read, or a label is
            out of range. The message names the split, the row and the value.
        ModuleNotFoundError: a package that carries the images is not installed.
    """
    for setting in ("train_file", "validation_file", "test_file", "unlabelled_file"):
        if (value := getattr(args, setting)) is not None:
            fix = "unlabelled_dataset" if setting == "unlabelled_file" else "dataset"
            raise ValueError(f"{setting}={value!r} is for texts: leave it out, and set {fix} to a folder of images.")
    columns = [
        Column(args.image_column, "image", "image_column"),
        Column(args.label_column, "label", "label_column"),
    ]
    sources = {
        name: _with_images(source, name, args)
        for name, source in load_splits(args, columns, (), BUNDLED_IMAGES).items()
    }
    classes = find_classes(*known_labels(sources), args.known_classes, args.teacher_classes)
    if classes is None:
        raise ValueError(f"label_column={args.label_column!r} holds floats: images are classified, give classes.")
    encoded = {name: encode_labels(source, classes) for name, source in sources.items()}
    strata = encoded["train"]["label"][:] if "train" in encoded else None
    chosen = select_examples(encoded, args, seed, strata)
    return TaskData(chosen.splits, classes.names, None, train_rows=chosen.train_rows, held_out=chosen.held_out)


def _with_images(source: Source, name: str, args: DataArguments) -> Source:
    """Images, with their bytes, after a check that each row has one."""
    split, feature = source.rows, source.rows.features["image"]
    if not isinstance(feature, Image):
        raise ValueError(
            f"column {args.image_column!r} of the {name} split holds {feature}, no images: set image_column."
        )
    stored = split.with_format("arrow")
    if (row := pc.index(pc.is_null(stored[:]["image"]), True).as_py()) >= 0:
        raise ValueError(f"{source.where(row)}: there is no image.")
    if pc.struct_field(stored[:]["image"], "bytes").null_count:
        # Files are read into the data: paths would show neither their content nor whether it has changed.
        try:
            stored = stored.map(embed_table_storage, batched=True, desc="Reading images")
        except OSError as error:
            raise ValueError(f"dataset={args.dataset!r}: {error}") from error
    # Its result is empty, and stored by datasets: the same images are not decoded again.
    try:
        stored.map(
            _check_images,
            batched=True,
            batch_size=_AT_ONCE,
            with_indices=True,
            remove_columns=stored.column_names,
            desc="Decoding images",
        )
    except RowError as error:
        raise ValueError(f"{source.where(error.row)}: {error}") from None
    return source._replace(rows=stored.with_format(None))


def _check_images(table: pa.Table, indices: list[int]) -> pa.Table:
    """Refuse images that cannot be decoded, or have more than 8 bits a channel, which Pillow would clip at 255."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        problems = pool.map(_problem_of, table["image"].to_pylist())
        for row, problem in zip(indices, problems, strict=True):
            if problem is not None:
                raise RowError(row, f"{problem}.")
    return table.select([]).slice(0, 0)


def _problem_of(image: dict[str, Any]) -> str | None:
    """Why an image cannot be used; None where it can."""
    name = image["path"] or "the image"
    try:
        with PIL.Image.open(io.BytesIO(image["bytes"] or b"")) as opened:  # reads the head alone
            pixels, limit = opened.width * opened.height, PIL.Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:
                return f"{name} has {opened.width} × {opened.height} pixels, too many to decode safely: scale it down"
            if opened.mode.startswith(("I", "F")):
                return (
                    f"the image has the mode {opened.mode}, of more than 8 bits a pixel, which image processors do "
                    "not read: scale the images to 8 bits first"
                )
            opened.load()
    except PIL.Image.DecompressionBombError as error:
        return f"{name} is too large to decode safely ({error}): scale it down"
    except PIL.UnidentifiedImageError:
        return f"{name} is no image that Pillow can read"
    except Exception as error:  # decoders of Pillow raise what they like
        return f"{name} is damaged ({error})"
    return None
