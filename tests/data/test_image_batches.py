"""From images to batches: what processors make of them, and what changes at random."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.tiny_images import VIT, WIDE, image_dataset
from PIL import Image
from transformers import AutoConfig

from hf_kd_lambda.data.image_batches import Augmentation, ImageCollator, image_processor_for
from hf_kd_lambda.tasks import TASKS


def processor(side=8, channels=1):
    config = AutoConfig.for_model(**{**WIDE, "image_size": side, "num_channels": channels})
    return image_processor_for(config, Image.new("L", (8, 8)))


def row(pixels, label=0):
    return {"pixel_values": Image.fromarray(np.asarray(pixels, dtype=np.uint8)), "labels": label}


def test_values_are_scaled_into_minus_one_to_one():
    ramp = np.arange(0, 256, 4).reshape(8, 8)
    batch = ImageCollator(processor())([row(ramp, 2), row(255 - ramp, 1)])
    expected = torch.tensor(np.stack([ramp, 255 - ramp]), dtype=torch.float32)[:, None] / 127.5 - 1
    torch.testing.assert_close(batch["pixel_values"], expected, rtol=0, atol=1e-6)
    assert batch["labels"].tolist() == [2, 1]
    assert batch["labels"].dtype == torch.int64


def test_the_size_is_the_models_or_the_images_own():
    example = Image.new("L", (5, 7))
    without = {name: value for name, value in WIDE.items() if name != "image_size"}
    assert dict(image_processor_for(AutoConfig.for_model(**without), example).size) == {"height": 7, "width": 5}
    assert dict(image_processor_for(AutoConfig.for_model(**VIT), example).size) == {"height": 16, "width": 16}
    oblong = AutoConfig.for_model(**{**WIDE, "image_size": [4, 6]})
    assert dict(image_processor_for(oblong, example).size) == {"height": 4, "width": 6}


def test_grey_images_get_the_channels_of_the_model():
    (values,) = ImageCollator(processor(channels=3))([row(np.full((8, 8), 255))])["pixel_values"]
    torch.testing.assert_close(values, torch.ones(3, 8, 8))


def test_colours_become_grey_for_a_model_of_one_channel():
    colours = Image.new("RGB", (8, 8), (255, 0, 0))
    (values,) = ImageCollator(processor())([{"pixel_values": colours, "labels": 0}])["pixel_values"]
    assert values.shape == (1, 8, 8)
    assert values.unique().tolist() == pytest.approx([76 / 127.5 - 1])


def test_a_model_of_two_channels_is_refused():
    with pytest.raises(ValueError, match="num_channels=2 is not one of 1, 3, 4"):
        processor(channels=2)


def test_teacher_and_student_see_one_image_each_in_its_own_size():
    collate = ImageCollator(processor(8), processor(16))
    half = np.zeros((8, 8))
    half[:, 4:] = 255
    batch = collate([row(half)])
    assert batch["pixel_values"].shape == (1, 1, 8, 8)
    assert batch["teacher_pixel_values"].shape == (1, 1, 16, 16)
    for values in (batch["pixel_values"], batch["teacher_pixel_values"]):
        assert values[..., 0].eq(-1).all()
        assert values[..., -1].eq(1).all()


def test_a_saved_processor_is_loaded_as_it_was(tmp_path):
    processor(16).save_pretrained(tmp_path)
    example = [row(np.arange(64).reshape(8, 8))]
    loaded = TASKS["image-classification"].load_processor(str(tmp_path))
    torch.testing.assert_close(
        ImageCollator(loaded)(example)["pixel_values"], ImageCollator(processor(16))(example)["pixel_values"]
    )


def shifted(pixels, down, right):
    """The image moved, with zeros where it has left."""
    height, width = pixels.shape
    padded = np.pad(pixels, ((height, height), (width, width)))
    return padded[height - down : 2 * height - down, width - right : 2 * width - right]


def augmented(kinds, pixels, count):
    """The image in so many epochs."""
    batch = {"pixel_values": [Image.fromarray(pixels)], "labels": [0]}
    return [np.asarray(Augmentation(kinds, seed)(batch)["pixel_values"][0]) for seed in range(count)]


def test_a_crop_is_the_image_moved_by_up_to_an_eighth():
    pixels = np.arange(1, 1 + 16 * 24, dtype=np.uint8).reshape(16, 24) | 1
    possible = {shifted(pixels, y, x).tobytes(): (y, x) for y in range(-2, 3) for x in range(-3, 4)}
    found = [possible[image.tobytes()] for image in augmented(("crop",), pixels, 400)]
    assert set(found) == set(possible.values())


def test_a_flip_mirrors_about_every_second_image():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    images = augmented(("flip",), pixels, 200)
    mirrored = [np.array_equal(image, pixels[:, ::-1]) for image in images]
    assert all(flip or np.array_equal(image, pixels) for flip, image in zip(mirrored, images, strict=True))
    assert 70 < sum(mirrored) < 130


def test_seed_and_image_alone_decide_what_is_changed():
    data: Dataset = image_dataset(12).rename_columns({"image": "pixel_values", "label": "labels"})

    def read(seed, order):
        rows = data.with_transform(Augmentation(("crop", "flip"), seed))
        read = {index: rows[index] for index in order}
        assert [read[index]["labels"] for index in range(12)] == data["labels"][:]
        return [np.asarray(read[index]["pixel_values"]).tobytes() for index in range(12)]

    assert read(0, range(12)) == read(0, reversed(range(12)))
    assert read(0, range(12)) != read(1, range(12))
    moves = {tuple(np.argwhere(np.frombuffer(image, np.uint8).reshape(16, 16))[0]) for image in read(0, range(12))}
    assert len(moves) > 1, "images of one epoch are not all moved alike"
