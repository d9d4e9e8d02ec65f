"""Kinds of problems by the names that the Hub has for them."""

from hf_kd_lambda.problems.causal_lm import CausalLM
from hf_kd_lambda.problems.image_classification import ImageClassification
from hf_kd_lambda.problems.problem import Problem
from hf_kd_lambda.problems.text_classification import TextClassification
from hf_kd_lambda.problems.token_classification import TokenClassification

PROBLEMS: dict[str, Problem] = {
    "text-classification": TextClassification(),
    "text-generation": CausalLM(),
    "image-classification": ImageClassification(),
    "token-classification": TokenClassification(),
}

__all__ = ["PROBLEMS", "CausalLM", "ImageClassification", "Problem", "TextClassification", "TokenClassification"]
