"""Models with random weights, for students and teachers that are trained from scratch."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_kd_lambda.models.labels import set_labels
from hf_kd_lambda.models.size import check_size
from hf_kd_lambda.utils.names import check_known


def config_of(setting: str, architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of an architecture.

    Args:
        setting: name of the setting, for messages.
        architecture: `model_type` and fields of its configuration. Every model type accepts `image_size`.

    Raises:
        ValueError: the model type or a field is unknown, or a value is invalid.
    """
    try:
        fields = dict(architecture)
        model_type = fields.pop("model_type", None)
        check_known(model_type, CONFIG_MAPPING, "model_type")
        default = AutoConfig.for_model(model_type)
        known = [*default.to_dict(), *default.attribute_map, "image_size"]
        for name in fields:
            check_known(name, known, f"field of {model_type}")
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"{setting}={dict(architecture)}: {error}") from None


def with_tokens(
    setting: str, architecture: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> dict[str, Any]:
    """An architecture completed with the vocabulary size and the tokenizer's special token ids.

    Args:
        setting, architecture: see `config_of`. Fields of the architecture take precedence.
        tokenizer: the tokenizer, shared with the teacher.
        vocab_size: the teacher's vocabulary size, which may be larger than the tokenizer's.

    Raises:
        ValueError: the model type is unknown, or the architecture has a different `vocab_size`.
    """
    fields = config_of(setting, {"model_type": architecture.get("model_type")}).to_dict()
    named = architecture.get("vocab_size", vocab_size)
    if named != vocab_size:
        raise ValueError(
            f"{setting}: vocab_size={named} differs from the teacher's {vocab_size}, but the student uses the "
            "teacher's tokenizer: leave vocab_size out."
        )
    special = [name for name in ("pad", "bos", "eos", "cls", "sep", "mask") if f"{name}_token_id" in fields]
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in special}
    return {"vocab_size": vocab_size, **ids, **architecture}


def model_from_scratch(
    setting: str,
    architecture: Mapping[str, Any],
    label_names: list[str] | None,
    auto_class: Any,
    problem_type: str | None = None,
) -> PreTrainedModel:
    """A model with random weights, drawn with torch's global generator.

    Args:
        setting, architecture: see `config_of`.
        label_names: names of the outputs, in order; None for regression. A language model has none.
        auto_class: Transformers' auto class for the task.
        problem_type: see `load_classifier`.

    Raises:
        ValueError: the architecture is invalid or has no model for the task.
    """
    config = config_of(setting, architecture)
    if auto_class is not AutoModelForCausalLM:
        set_labels(config, label_names, problem_type)
    config.architectures = []  # otherwise auto classes choose the first of several (DeiT)
    try:
        check_size(config, auto_class)
        return auto_class.from_config(config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{setting}={dict(architecture)} is no valid {auto_class.__name__}: {error}") from None
