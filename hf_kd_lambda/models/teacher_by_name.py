"""A teacher by its name, as the trainer takes it."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.trainer_utils import unwrap_peft_model

from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.models.classifiers import load_classifier
from hf_kd_lambda.models.labels import own_label_names
from hf_kd_lambda.models.model_task import task_of_model
from hf_kd_lambda.models.protocol import is_multi_label
from hf_kd_lambda.utils.paths import check_model_folder

_AUTO_CLASSES: dict[str, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "image-classification": AutoModelForImageClassification,
}


def load_teacher(teacher: Any, student: nn.Module) -> Any:
    """The teacher; a Hub id or a folder is loaded, in fp32, as a model of the student's kind.

    Args:
        teacher: a model, a name or None.
        student: the student, whose class decides that of the teacher.

    Raises:
        ValueError: there is no trained model of this name for the student's labels.
        OSError: there is no such model.
    """
    if not isinstance(teacher, str | Path):
        return teacher
    name, model = str(teacher), cast(Any, unwrap_peft_model(student))
    check_model_folder("teacher", name)
    task = task_of_model(model)
    if task == "text-generation":
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    if task in _AUTO_CLASSES:
        return load_classifier(
            name,
            own_label_names(model),
            auto_class=_AUTO_CLASSES[task],
            problem_type=MULTI_LABEL if is_multi_label(model) else None,
            require_head=True,
            whose="student",
        )
    raise ValueError(
        f"teacher={name!r}: a {type(model).__name__} does not determine the class of its teacher: load the teacher "
        "and give the model."
    )
