"""LoRA students: only adapters and head are trained; adapters are merged into the weights at the end."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import unwrap_peft_model

# PEFT's task types; with one, it also trains the head. There is none for image classification.
LORA_DEFAULTS: dict[str, dict[str, Any]] = {
    "text-classification": {"task_type": "SEQ_CLS"},
    "token-classification": {"task_type": "TOKEN_CLS"},
    "question-answering": {"task_type": "QUESTION_ANS"},
    "text-generation": {"task_type": "CAUSAL_LM"},
    "image-classification": {"modules_to_save": ["classifier"]},
}


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any], problem: str) -> Any:
    """Wrap a model, in place, in a `PeftModel` that trains only adapters and head (LoRA, Hu et al. 2021).

    Args:
        model: the student.
        lora: fields of `peft.LoraConfig`.
        problem: the Hub's name of the task.

    Raises:
        ModuleNotFoundError: the [peft] extra is not installed.
        ValueError: a field is unknown, or no module matches `target_modules`.
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
    """Merge the adapters of a trainer's model into its weights; the result is an ordinary model."""
    if unwrap_peft_model(trainer.model) is not trainer.model:
        trainer.model = trainer.model.merge_and_unload()
