"""Kinds of problems by the names that the Hub has for them."""

from hf_kd_lambda.problems.problem import Problem
from hf_kd_lambda.problems.text_classification import TextClassification

PROBLEMS: dict[str, Problem] = {
    "text-classification": TextClassification(),
}

__all__ = ["PROBLEMS", "Problem", "TextClassification"]
