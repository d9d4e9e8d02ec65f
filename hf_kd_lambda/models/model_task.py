"""The task of a model, by its class."""

from torch import nn
from transformers.trainer_utils import unwrap_peft_model

from hf_kd_lambda.models.causal import is_causal

_TASKS = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
    "ForQuestionAnswering": "question-answering",
}


def task_of_model(model: nn.Module) -> str | None:
    """The Hub's name of the task of a model, or of the base model of a `PeftModel`; None if its class tells none."""
    if is_causal(model):
        return "text-generation"
    names = [base.__name__ for base in type(unwrap_peft_model(model)).__mro__]
    return next((task for part, task in _TASKS.items() if any(part in name for name in names)), None)
