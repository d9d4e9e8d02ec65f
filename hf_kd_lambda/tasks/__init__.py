"""Kinds of tasks, by the names that the Hub has for them. May import utils, losses, models, data and reports."""

from hf_kd_lambda.tasks.causal_lm import CausalLM
from hf_kd_lambda.tasks.image_classification import ImageClassification
from hf_kd_lambda.tasks.question_answering import QuestionAnswering
from hf_kd_lambda.tasks.task import Task
from hf_kd_lambda.tasks.text_classification import TextClassification
from hf_kd_lambda.tasks.token_classification import TokenClassification

TASKS: dict[str, Task] = {
    "text-classification": TextClassification(),
    "text-generation": CausalLM(),
    "image-classification": ImageClassification(),
    "token-classification": TokenClassification(),
    "question-answering": QuestionAnswering(),
}

__all__ = [
    "TASKS",
    "CausalLM",
    "ImageClassification",
    "QuestionAnswering",
    "Task",
    "TextClassification",
    "TokenClassification",
]
