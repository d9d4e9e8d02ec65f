"""Image classifiers and images small enough for tests, made without a network."""

import json
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel, ViTImageProcessorPil

NAMES = ["dark", "medium", "bright"]
RESNET = {"model_type": "resnet", "layer_type": "basic", "num_channels": 1, "image_size": 16}
WIDE = {**RESNET, "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
NARROW = {**RESNET, "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
VIT = {
    "model_type": "vit",
    "num_channels": 1,
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
MOBILENET = {"model_type": "mobilenet_v2", "num_channels": 1, "image_size": 32, "depth_multiplier": 0.1}


def tiny_classifier(architecture: dict[str, object], seed: int = 0, **config) -> PreTrainedModel:
    """A classifier of NAMES with random weights."""
    torch.manual_seed(seed)
    labels = dict(enumerate(NAMES))
    settings = {**architecture, "id2label": labels, "label2id": {name: i for i, name in labels.items()}, **config}
    return AutoModelForImageClassification.from_config(AutoConfig.for_model(**settings))


def save_image_checkpoint(model: PreTrainedModel, folder: Path, size: int = 16, channels: int = 1) -> str:
    """Save a model with an image processor, as `from_pretrained` and `teacher`/`student` take them."""
    model.save_pretrained(folder)
    middle = [0.5] * channels
    processor = ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=middle, image_std=middle)
    processor.save_pretrained(folder)
    return str(folder)


def images(count: int, side: int = 16, seed: int = 0) -> tuple[list[np.ndarray], list[int]]:
    """Noisy grey images, whose brightness is their class."""
    random = np.random.default_rng(seed)
    labels = [index % 3 for index in range(count)]
    pixels = [(60 + 60 * label + random.normal(0, 40, (side, side))).clip(0, 255).astype(np.uint8) for label in labels]
    return pixels, labels


def image_dataset(count: int, side: int = 16, seed: int = 0) -> Dataset:
    """The same, with the columns image and label."""
    pixels, labels = images(count, side, seed)
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": pixels, "label": labels}, features)


def write_image_folder(folder: Path, side: int = 16, splits: tuple[str, ...] = ("train", "validation", "test")) -> str:
    """Write a folder for each split, in it one for each class, in it PNG files."""
    for seed, split in enumerate(splits):
        for index, (pixels, label) in enumerate(zip(*images(48 if split == "train" else 18, side, seed), strict=True)):
            path = folder / split / NAMES[label] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PILImage.fromarray(pixels).save(path)
    return str(folder)


def tensors(count: int, side: int = 16) -> Dataset:
    """Images as pixel values, with labels, for a trainer without a job."""
    pixels, labels = images(count, side)
    values = [(image[None] / 127.5 - 1).astype(np.float32) for image in pixels]
    return Dataset.from_dict({"pixel_values": values, "labels": labels})


def batch_norms(model: nn.Module) -> dict[str, torch.Tensor]:
    """The running statistics of a model."""
    return {name.removeprefix("module."): buffer.clone() for name, buffer in model.named_buffers()}


def image_settings(folder: Path, **changed: object) -> dict[str, object]:
    """Settings of a job of seconds on images in folders: a teacher and a student from scratch.

    Args:
        folder: for the images, the teacher and the output.
        changed: settings to add or replace; None removes one.
    """
    return {
        "problem": "image-classification",
        "dataset": write_image_folder(folder / "images"),
        "teacher_architecture": json.dumps(WIDE),
        "teacher_finetune": True,
        "teacher_epochs": 8,
        "teacher_learning_rate": 1e-2,
        "student_architecture": json.dumps(NARROW),
        "output_dir": str(folder / "out"),
        "teacher_cache_dir": str(folder / "cache"),
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 12,
        "per_device_eval_batch_size": 64,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "precision": "fp32",
        "use_cpu": True,
        **changed,
    }
