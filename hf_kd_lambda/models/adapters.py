"""Low-rank adapters: the only trained part of a student, merged into its weights at the end."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import unwrap_peft_model

# PEFT's names for our tasks, by which it also trains the head. It has no name for image classification.
LORA_DEFAULTS: dict[str, dict[str, Any]] = {
    "text-classification": {"task_type": "SEQ_CLS"},
    "token-classification": {"task_type": "TOKEN_CLS"},
    "question-answering": {"task_type": "QUESTION_ANS"},
    "text-generation": {"task_type": "CAUSAL_LM"},
    "image-classification": {"modules_to_save": ["classifier"]},
}


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any], problem: str) -> Any:
    """Wrap a model, in place, in a `PeftModel` that trains adapters and head alone (LoRA, Hu et al. 2021).

    Args:
        model: any.
        lora: fields of `peft.LoraConfig`.
        problem: kind of task, by the Hub's name.

    Raises:
        ModuleNotFoundError: the [peft] extra is not installed.
        ValueError: a field is unknown, or no module has a name in `target_modules`.
    """
    try:
        import peft
    except ImportError:
        raise ModuleNotFoundError('lora needs PEFT: pip install "hf-kd-lambda[peft]"') from None
    try:
        config = peft.LoraConfig(**{**LORA_DEFAULTS[problem], **lora})
        return peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"lora={dict(lora)}: {error}") from None


def merge_adapters(trainer: Trainer) -> None:
    """Merge the adapters of a trainer's model into its weights, which makes it an ordinary model."""
    if unwrap_peft_model(trainer.model) is not trainer.model:
        trainer.model = trainer.model.merge_and_unload()
