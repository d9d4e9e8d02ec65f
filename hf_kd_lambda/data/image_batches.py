"""From images to batches: what image processors make of them, and the random crops and flips of training."""

import random
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import PreTrainedConfig, ViTImageProcessorPil

from hf_kd_lambda.data.columns import TEACHER_PREFIX

PIXELS = "pixel_values"
"""Inputs of models, and the column of the images, since the Trainer drops columns that no model takes."""
AUGMENTATIONS = ("crop", "flip")
SHIFT = 8  # a crop moves an image by up to an eighth of its side: 4 of 32 pixels (He et al. 2016, section 4.2)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def image_processor_for(config: PreTrainedConfig, example: Image.Image) -> Any:
    """The image processor of a model from scratch: images of one size, with values in [-1, 1].

    Args:
        config: the model's configuration; `image_size` is the height and width.
        example: has the height and width for a model without one.

    Raises:
        ValueError: there are no images of so many channels.
    """
    side = getattr(config, "image_size", None) or (example.height, example.width)
    height, width = (side, side) if isinstance(side, int) else side
    channels = getattr(config, "num_channels", 3)
    if channels not in _MODES:
        raise ValueError(f"num_channels={channels} is not one of {', '.join(map(str, _MODES))}, as images have.")
    middle = [0.5] * channels
    return ViTImageProcessorPil(size={"height": height, "width": width}, image_mean=middle, image_std=middle)


@dataclass
class Augmentation:
    """Another crop or flip of an image in each epoch; a dataset's transform.

    Seed and image alone decide it, so that it is the same on whichever rank, in whichever process and after whichever
    interruption the image is read.

    Args:
        kinds: names in AUGMENTATIONS. `crop`: the image moved by up to an eighth of height and width, black beyond its
            edges. `flip`: left and right exchanged with probability 0.5.
        seed: a seed that changes with the epoch, as in `EpochOrder`.
    """

    kinds: Collection[str]
    seed: int = 0

    def set_seed(self, seed: int) -> None:
        """Draw the changes of another epoch."""
        self.seed = seed

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The examples, by columns, with other images."""
        return {**batch, PIXELS: [self._augmented(image) for image in batch[PIXELS]]}

    def _augmented(self, image: Image.Image) -> Image.Image:
        drawn = random.Random(f"{self.seed} {zlib.crc32(image.tobytes())}")
        if "crop" in self.kinds:
            left, top = (drawn.randint(-(side // SHIFT), side // SHIFT) for side in image.size)
            image = image.crop((left, top, left + image.width, top + image.height))
        return ImageOps.mirror(image) if "flip" in self.kinds and drawn.random() < 0.5 else image


class ImageCollator:
    """Makes a batch of images, for the teacher apart from the student where their processors differ.

    Args:
        processor: the student's.
        teacher_processor: the teacher's, where it makes other inputs.
    """

    def __init__(self, processor: Any, teacher_processor: Any | None = None) -> None:
        self._processors = {PIXELS: processor}
        if teacher_processor is not None:
            self._processors[TEACHER_PREFIX + PIXELS] = teacher_processor

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pixel values (examples, channels, height, width), float32, and labels (examples,), int64."""
        images = [example[PIXELS] for example in examples]
        batch = {name: _pixels(processor, images) for name, processor in self._processors.items()}
        return batch | {"labels": torch.tensor([example["labels"] for example in examples])}


def _pixels(processor: Any, images: list[Image.Image]) -> Tensor:
    mode = _MODES[len(processor.image_mean)]  # the channels that it normalises
    return processor([image.convert(mode) for image in images], return_tensors="pt")[PIXELS]
