"""Models from scratch, for classifiers that nobody has pretrained, or small enough to be trained in minutes."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_kd_lambda.names import check_known
from hf_kd_lambda.teacher import set_labels


def config_of(setting: str, architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration that an architecture describes.

    Args:
        setting: that gave it, for messages.
        architecture: `model_type` and fields of its configuration. Any model may have an `image_size`.

    Raises:
        ValueError: the kind of model or a field is unknown, or a value does not fit.
    """
    try:
        fields = dict(architecture)
        model_type = fields.pop("model_type", None)
        check_known(model_type, CONFIG_MAPPING, "model_type")
        known = [*AutoConfig.for_model(model_type).to_dict(), "image_size"]
        for name in fields:
            check_known(name, known, f"field of {model_type}")
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"{setting}={dict(architecture)}: {error}") from None


def new_model(
    setting: str, architecture: Mapping[str, Any], label_names: list[str] | None, auto_class: Any
) -> PreTrainedModel:
    """A model with new weights, drawn with torch's random numbers.

    Args:
        setting, architecture: see `config_of`.
        label_names: in the order of the outputs; None for a regression.
        auto_class: of the model.

    Raises:
        ValueError: there is no such model.
    """
    config = config_of(setting, architecture)
    set_labels(config, label_names)
    config.architectures = []  # none chosen: of several, as DeiT has, the first is taken
    try:
        return auto_class.from_config(config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{setting}={dict(architecture)} makes no {auto_class.__name__}: {error}") from None
