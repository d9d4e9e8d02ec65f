"""Low-rank adapters, through which alone a student is trained, and which end up in its weights."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import unwrap_peft_model

# What PEFT calls a problem, of which it then trains the head beside the adapters; of images it has no name.
DEFAULTS: dict[str, dict[str, Any]] = {
    "text-classification": {"task_type": "SEQ_CLS"},
    "token-classification": {"task_type": "TOKEN_CLS"},
    "text-generation": {"task_type": "CAUSAL_LM"},
    "image-classification": {"modules_to_save": ["classifier"]},
}


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any], problem: str) -> Any:
    """A `PeftModel` around a model, in place, only whose adapters and head are trained (LoRA, Hu et al. 2021).

    Args:
        model: any.
        lora: fields of `peft.LoraConfig`.
        problem: by the Hub's name.

    Raises:
        ModuleNotFoundError: the [peft] extra is not installed.
        ValueError: a field is unknown, or no module is of a name in `target_modules`.
    """
    try:
        import peft
    except ImportError:
        raise ModuleNotFoundError('lora needs PEFT: pip install "hf-kd-lambda[peft]"') from None
    try:
        config = peft.LoraConfig(**{**DEFAULTS[problem], **lora})
        return peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"lora={dict(lora)}: {error}") from None


def merge_adapters(trainer: Trainer) -> None:
    """Leave a trainer with an ordinary model that has what its adapters learned in its weights."""
    if unwrap_peft_model(trainer.model) is not trainer.model:
        trainer.model = trainer.model.merge_and_unload()
