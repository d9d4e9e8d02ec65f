"""A class for each image."""

from collections.abc import Mapping
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

# From its own module: in some versions, the one that `transformers` exports needs torchvision, though Pillow suffices.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.classes import with_numbers_for_missing
from hf_kd_lambda.data.image_batches import AUGMENTATIONS, PIXELS, Augmentation, ImageCollator, image_processor_for
from hf_kd_lambda.data.images import load_image_data
from hf_kd_lambda.data.split_report import report_splits
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.models.from_scratch import config_of, model_from_scratch
from hf_kd_lambda.tasks.metrics.glue import compute_metrics_for, score_of_one_class
from hf_kd_lambda.tasks.task import Collator, Metrics, Task
from hf_kd_lambda.utils.names import check_known

logger = logging.get_logger(__name__)

LARGE_SIDE = 256  # pixels; vision models usually read 224


class ImageClassification(Task):
    """Convolutional networks and vision transformers, from checkpoints or from scratch."""

    auto_class: ClassVar = AutoModelForImageClassification
    processor_class: ClassVar = AutoImageProcessor

    def new_model(
        self,
        setting: str,
        architecture: Mapping[str, Any],
        data: TaskData,
        processor: Any,
        teacher: PreTrainedModel | None,
    ) -> PreTrainedModel:
        """See `model_from_scratch`."""
        return model_from_scratch(setting, architecture, data.label_names, self.auto_class)

    def new_processor(
        self, setting: str, architecture: Mapping[str, Any], data: TaskData, teachers: Any | None
    ) -> Any:
        """See `image_processor_for`; the student has its own, of its size and channels."""
        config, example = config_of(setting, architecture), data.splits["train"][0]["image"]
        if not getattr(config, "image_size", None) and max(example.size) > LARGE_SIDE:
            logger.warning(
                f"{setting} has no image_size, so that every image is resized to {example.height} × {example.width} "
                "(height × width), the size of the first training image: set image_size, for example to 224."
            )
        try:
            return image_processor_for(config, example)
        except ValueError as error:
            raise ValueError(f"{setting}={dict(architecture)}: {error}") from None

    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """See `load_image_data`."""
        for kind in args.augment or ():
            check_known(kind, AUGMENTATIONS, "augment")
        return load_image_data(args, seed)

    def share_inputs(
        self, teacher: Any, student: Any, data: TaskData | None = None, max_length: int | None = None
    ) -> bool:
        """Whether size, normalisation and all else that makes pixel values are the same."""
        return teacher.to_dict() == student.to_dict()

    def encode(self, data: TaskData, args: DataArguments, student: Any, teacher: Any | None) -> DatasetDict:
        """The images as they are, which the collator makes inputs of; those of training augmented when read."""
        splits = DatasetDict(
            {name: with_numbers_for_missing(split, data.num_labels) for name, split in data.splits.items()}
        )
        encoded = splits.rename_columns({"image": PIXELS, "label": "labels"})
        report_splits(data.splits, data.label_names)
        if args.augment and "train" in encoded:
            encoded["train"] = encoded["train"].with_transform(Augmentation(tuple(args.augment)))
        return encoded

    def collator(self, student: Any, teacher: Any | None) -> Collator:
        """See `ImageCollator`."""
        return ImageCollator(student, teacher)

    def unreadable(self, who: str, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> str:
        """Another size, or other channels."""
        config = {name: getattr(model.config, name, None) for name in ("num_channels", "image_size")}
        wanted = ", ".join(f"{name}={value}" for name, value in config.items() if value)
        given = " × ".join(map(str, batch[PIXELS].shape[1:]))
        return (
            f"a {type(model).__name__} of {wanted} cannot read the images of {given} that its processor makes: set "
            f"num_channels and image_size of {who}_architecture, or size and image_mean in the checkpoint's "
            "preprocessor_config.json"
        )

    def metrics(self, data: TaskData, encoded: Dataset) -> Metrics:
        """Accuracy and the mean of the classes' F1."""
        return compute_metrics_for(None, is_regression=False)

    def chance(self, data: TaskData) -> float:
        """That of the most frequent class."""
        return score_of_one_class(data.splits[data.report_split]["label"][:])
