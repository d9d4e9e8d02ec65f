"""Models with new weights, for students and teachers that are trained from scratch."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_kd_lambda.models.labels import set_labels
from hf_kd_lambda.utils.names import check_known


def config_of(setting: str, architecture: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration that an architecture describes.

    Args:
        setting: its name, for messages.
        architecture: `model_type` and fields of its configuration. Any model may have an `image_size`.

    Raises:
        ValueError: the model type or a field is unknown, or a value does not fit.
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


def with_tokens(
    setting: str, architecture: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> dict[str, Any]:
    """An architecture for a tokenizer's tokens, with the special tokens that its model type has fields for.

    Args:
        setting, architecture: see `config_of`. Fields in it stay as they are.
        tokenizer: shared with the teacher.
        vocab_size: the teacher's, which may have more embeddings than the tokenizer has tokens.

    Raises:
        ValueError: the model type is unknown, or the architecture names another `vocab_size`.
    """
    fields = config_of(setting, {"model_type": architecture.get("model_type")}).to_dict()
    named = architecture.get("vocab_size", vocab_size)
    if named != vocab_size:
        raise ValueError(
            f"{setting}: vocab_size={named} differs from the teacher's {vocab_size}, whose tokens the student reads: "
            "leave vocab_size out."
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
    """A model with new weights, drawn with torch's random numbers.

    Args:
        setting, architecture: see `config_of`.
        label_names: in the order of the outputs; None for a regression.
        auto_class: of the model.
        problem_type: see `load_classifier`.

    Raises:
        ValueError: there is no such model.
    """
    config = config_of(setting, architecture)
    set_labels(config, label_names, problem_type)
    config.architectures = []  # else auto classes take the first of several, as DeiT has
    try:
        return auto_class.from_config(config)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{setting}={dict(architecture)} makes no {auto_class.__name__}: {error}") from None
