"""LoRA students: only adapters and head are trained; adapters are merged into the weights at the end."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import unwrap_peft_model

from hf_kd_lambda.models.labels import output_layer

# PEFT's task types. There is none for image classification.
TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "text-generation": "CAUSAL_LM",
}


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any], problem: str) -> Any:
    """Wrap a model, in place, in a `PeftModel` that trains only adapters and head (LoRA, Hu et al. 2021).

    Args:
        model: the student.
        lora: fields of `peft.LoraConfig`.
        problem: the Hub's name of the task.

    Raises:
        ModuleNotFoundError: the [peft] extra is not installed.
        ValueError: a field is unknown, no module matches `target_modules`, or a classifier has no output layer.
    """
    try:
        import peft
    except ImportError:
        raise ModuleNotFoundError('lora needs PEFT: pip install "hf-kd-lambda[peft]"') from None
    # PEFT itself finds only heads that are called classifier or score.
    heads = [output_layer(model)[0].partition(".")[0]] if problem.endswith("classification") else []
    try:
        trained = [*(lora.get("modules_to_save") or []), *heads]
        config = peft.LoraConfig(**{"task_type": TASK_TYPES.get(problem), **lora, "modules_to_save": trained or None})
        return peft.get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"lora={dict(lora)}: {error}") from None


def merge_adapters(trainer: Trainer) -> None:
    """Merge the adapters of a trainer's model into its weights; the result is an ordinary model."""
    if unwrap_peft_model(trainer.model) is not trainer.model:
        trainer.model = trainer.model.merge_and_unload()
